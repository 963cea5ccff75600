/** The command tree of `anneal`. */
import { Command } from 'commander';
import { benchCommand } from './commands/bench.ts';
import { chatCommand } from './commands/chat.ts';
import { checkpointCommand } from './commands/checkpoint.ts';
import { completionCommand } from './commands/completion.ts';
import { doctorCommand } from './commands/doctor.ts';
import { keysCommand } from './commands/keys.ts';
import { modelCommand } from './commands/model.ts';
import { runCommand } from './commands/run.ts';
import { serveCommand } from './commands/serve.ts';
import { trainCommand } from './commands/train.ts';
import { version } from './version.ts';

const commands = [
  serveCommand,
  doctorCommand,
  benchCommand,
  modelCommand,
  trainCommand,
  runCommand,
  checkpointCommand,
  chatCommand,
  keysCommand,
  completionCommand,
];

export function buildProgram(): Command {
  const program = new Command('anneal')
    .exitOverride()
    .description('A self-hosted server for LoRA fine-tuning and sampling that speaks the Tinker API')
    .version(version)
    .showHelpAfterError('(anneal --help lists the commands)')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error:/, 'anneal: error:')) });
  for (const command of commands) program.addCommand(command(program));
  return program;
}
