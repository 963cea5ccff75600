import type { Command } from 'commander';
import { usageError } from '../errors.ts';
import { facts } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions, withConnection } from '../remote.ts';
import type { TrainingKind } from '../train/read-examples.ts';
import { runTraining, type Trained, type TrainingOptions } from '../train/run-training.ts';
import { naturalNumber } from './listing.ts';
import { positiveNumber } from './numbers.ts';

type TrainOptions = RemoteOptions & TrainingOptions;

const KINDS: Record<TrainingKind, { description: string; file: string; learningRate: number }> = {
  sft: {
    description: 'fine-tune on conversations: what the assistant says is learnt',
    file: 'JSON lines with "messages"',
    learningRate: 5e-4,
  },
  dpo: {
    description: 'fine-tune on preferences: chosen answers become likelier than rejected ones',
    file: 'JSON lines with "prompt", "chosen" and "rejected"',
    learningRate: 1e-4,
  },
};

export function trainCommand(program: Command): Command {
  const train = program
    .createCommand('train')
    .copyInheritedSettings(program)
    .description('train an adapter on a data file, with a running server');
  for (const kind of Object.keys(KINDS) as TrainingKind[]) addKind(train, kind);
  return train;
}

function addKind(train: Command, kind: TrainingKind): void {
  const { description, file, learningRate } = KINDS[kind];
  const command = train
    .command(kind)
    .argument('<file>', file)
    .description(description)
    .option('--model <model>', 'base model (default: the served one)')
    .option('--rank <number>', 'of the LoRA adapter (default: 32)', naturalNumber)
    .option('--learning-rate <number>', 'at the first step; it falls to zero', positiveNumber, learningRate)
    .option('--batch-size <number>', 'examples in a step', naturalNumber, 8)
    .option('--epochs <number>', 'times to go through the data', naturalNumber, 1)
    .option('--max-length <tokens>', 'cut longer examples at their end', naturalNumber)
    .option('--name <name>', "of the saved checkpoints (default: the file's)")
    .option(
      '--save-every <steps>',
      'save the state after every so many steps, in place of the one before',
      naturalNumber,
    )
    .option('--resume <path>', 'go on from a saved state, tinker://RUN/weights/NAME')
    .option(
      '--tokenizer <place>',
      "folder, URL or hub name, where the server's own cannot be read from here",
    );
  if (kind === 'dpo')
    command.option('--beta <number>', 'how much moving away from the base model costs', positiveNumber, 0.1);
  addRemoteOptions(command).action((path: string, options: TrainOptions) => run(kind, path, options));
}

async function run(kind: TrainingKind, file: string, options: TrainOptions): Promise<void> {
  for (const name of ['model', 'rank'] as const) {
    if (options.resume !== undefined && options[name] !== undefined)
      throw usageError(`--${name}: the state that --resume names decides it`);
  }
  const interrupt = new AbortController();
  // The second one ends the command at once.
  process.once('SIGINT', () => {
    process.stderr.write('\nanneal: ending after this step; Ctrl-C again ends at once and saves nothing\n');
    interrupt.abort();
  });
  const trained = await withConnection(options, (connection) =>
    runTraining(connection, kind, file, options, interrupt.signal),
  );
  process.stdout.write(`${options.json ? JSON.stringify(trained) : describe(trained)}\n`);
  if (trained.interrupted) process.exitCode = 130;
}

function describe({ path, state, steps, interrupted }: Trained): string {
  return facts([
    ['adapter', path],
    ['state', state],
    ['steps', steps],
    ['interrupted', interrupted ? 'go on with --resume and the state above' : ''],
    ['try it', interrupted ? '' : `anneal chat --model ${path}`],
  ]);
}
