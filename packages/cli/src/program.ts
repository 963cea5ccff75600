/** The command tree of `anneal`. */
import { Command } from 'commander';
import { completionCommand } from './commands/completion.ts';
import { doctorCommand } from './commands/doctor.ts';
import { modelCommand } from './commands/model.ts';
import { serveCommand } from './commands/serve.ts';
import { version } from './version.ts';

export function buildProgram(): Command {
  const program = new Command('anneal')
    .exitOverride()
    .description('A self-hosted server for LoRA fine-tuning and sampling that speaks the Tinker API')
    .version(version)
    .showHelpAfterError('(anneal --help lists the commands)')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error:/, 'anneal: error:')) });
  program.addCommand(serveCommand(program));
  program.addCommand(doctorCommand(program));
  program.addCommand(modelCommand(program));
  program.addCommand(completionCommand(program));
  return program;
}
