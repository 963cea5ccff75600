import type { TrainingRun } from '@anneal/client';
import { type ConsoleCall, ConsoleMetrics } from '@anneal/types/console';
import type { Command } from 'commander';
import { facts, print, table } from '../output/print.ts';
import { addRemoteOptions, callServer, type RemoteOptions, withConnection, withServer } from '../remote.ts';
import { callsOf, describeCall } from '../runs/call-log.ts';
import { naturalNumber, take } from './listing.ts';
import { wholeNumberUpTo } from './numbers.ts';

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
  addRemoteOptions(run.command('metrics'))
    .argument('<run>', "the run's id")
    .description('loss and other metrics of each step')
    .option('--after <step>', 'only steps after this one', naturalNumber)
    .action(metrics);
  addRemoteOptions(run.command('logs'))
    .argument('<run>', "the run's id")
    .description('what the run was asked: time, kind, duration, tokens, metrics and errors of each request')
    .option('--tail <number>', 'only the latest so many, up to 1000', wholeNumberUpTo(1000))
    .option('-f, --follow', 'go on as requests end, until the run does')
    .action(logs);
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

async function metrics(id: string, { after, ...options }: RemoteOptions & { after?: number }): Promise<void> {
  const since = after === undefined ? '' : `?after=${after}`;
  const found = await withConnection(options, async (connection) => {
    const path = `/console/api/runs/${encodeURIComponent(id)}/metrics${since}`;
    return ConsoleMetrics.parse(await (await callServer(connection, path)).json());
  });
  print(options.json, found, () => stepTable(found));
}

async function logs(
  id: string,
  { tail, follow, ...options }: RemoteOptions & { tail?: number; follow?: boolean },
): Promise<void> {
  const interrupt = new AbortController();
  process.once('SIGINT', () => interrupt.abort());
  const shown = options.json ? (call: ConsoleCall) => JSON.stringify(call) : describeCall;
  let count = 0;
  await withConnection(options, async (connection) => {
    for await (const call of callsOf(connection, id, { tail, follow, signal: interrupt.signal })) {
      process.stdout.write(`${shown(call)}\n`);
      count++;
    }
  }).catch((error: unknown) => {
    if (!interrupt.signal.aborted) throw error;
  });
  if (count === 0 && !options.json) process.stderr.write('No requests are remembered.\n');
}

function stepTable({ steps, at, series }: ConsoleMetrics): string {
  const names = Object.keys(series).sort();
  return table(
    ['step', 'time', ...names],
    steps.map((step, row) => [
      String(step),
      new Date(at[row] ?? 0).toISOString(),
      ...names.map((name) => shortNumber(series[name]?.[row])),
    ]),
    'No steps yet.',
  );
}

/** Five digits; steps that lack the metric are empty. */
function shortNumber(value: number | null | undefined): string {
  return value === null || value === undefined ? '' : String(Number(value.toPrecision(5)));
}
