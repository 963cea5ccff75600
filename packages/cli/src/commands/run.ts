import type { TrainingRun } from '@anneal/client';
import type { Command } from 'commander';
import { facts, print, table } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions, withServer } from '../remote.ts';
import { naturalNumber, take } from './listing.ts';

export function runCommand(program: Command): Command {
  const run = program
    .createCommand('run')
    .copyInheritedSettings(program)
    .description('training runs of a running server');
  addRemoteOptions(run.command('list'))
    .description('training runs, newest first')
    .option('--limit <number>', 'how many', naturalNumber, 20)
    .action(list);
  addRemoteOptions(run.command('info'))
    .argument('<run>', "the run's id")
    .description('one training run')
    .action(info);
  return run;
}

async function list({ limit, ...options }: RemoteOptions & { limit: number }): Promise<void> {
  const runs = await withServer(options, (rest) => take(rest.trainingRuns(), limit));
  print(options.json, { runs }, () =>
    table(
      ['run', 'base model', 'rank', 'last request', 'state'],
      runs.map((run) => [
        run.training_run_id,
        run.base_model,
        String(run.lora_rank ?? ''),
        run.last_request_time,
        run.corrupted ? 'corrupted' : '',
      ]),
      'No training runs yet.',
    ),
  );
}

async function info(id: string, options: RemoteOptions): Promise<void> {
  const run = await withServer(options, async (rest) => await rest.getTrainingRun(id));
  print(options.json, run, () => facts(describe(run)));
}

function describe(run: TrainingRun): [string, unknown][] {
  return [
    ['run', run.training_run_id],
    ['base model', run.base_model],
    ['owner', run.model_owner],
    ['LoRA rank', run.lora_rank],
    ['last request', run.last_request_time],
    ['state', run.corrupted ? 'corrupted: a checkpoint is damaged' : 'ok'],
    ['last checkpoint', run.last_checkpoint?.tinker_path],
    ['last sampler', run.last_sampler_checkpoint?.tinker_path],
    ...Object.entries(run.user_metadata ?? {}).map(([key, value]): [string, unknown] => [
      `metadata ${key}`,
      value,
    ]),
  ];
}
