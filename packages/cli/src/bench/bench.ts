/** `anneal bench`: opens what is to be measured, runs the cases, closes it. */
import { resolveModel } from '@anneal/hub';
import { ServerConfig } from '@anneal/server';
import { prepareTensorflow, TENSORFLOW_VERSION, terminalProgress } from '@anneal/tensorflow';
import type { BenchCommandOptions } from '../commands/bench.ts';
import { CliError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';
import { version } from '../version.ts';
import { openEngineSubject } from './engine-subject.ts';
import type { BenchResult } from './result.ts';
import { type BenchOptions, describeRun, runSubjectCases } from './run-bench.ts';
import { openUrlSubject } from './url-subject.ts';

const REPEATS = 5;
const QUICK_REPEATS = 3;

/** @throws CliError with one message for the person who measures. */
export async function bench(options: BenchCommandOptions, say: (line: string) => void): Promise<BenchResult> {
  const benchOptions: BenchOptions = {
    only: options.case,
    quick: options.quick,
    repeats: options.repeat ?? (options.quick ? QUICK_REPEATS : REPEATS),
    say,
  };
  return options.url === undefined
    ? benchMachine(options, benchOptions)
    : benchUrl(options.url, options, benchOptions);
}

async function benchMachine(
  { model, precision = ServerConfig.shape.precision.parse(undefined) }: BenchCommandOptions,
  options: BenchOptions,
): Promise<BenchResult> {
  const run = await describeRun(version);
  const addonPath = await findAddon();
  const progress = modelProgress();
  const { folder, name } = await resolveModel(model, { onProgress: progress.onProgress }).finally(
    progress.stop,
  );
  const subject = await openEngineSubject({ addonPath, folder, precision });
  try {
    const found = await runSubjectCases(subject, options);
    return {
      ...run,
      subject: subject.label,
      backend: `TensorFlow ${TENSORFLOW_VERSION}`,
      model: name,
      precision,
      repeats: options.repeats,
      ...found,
    };
  } finally {
    await subject.close();
  }
}

async function benchUrl(
  url: string,
  { model, apiKey = process.env.TINKER_API_KEY }: BenchCommandOptions,
  options: BenchOptions,
): Promise<BenchResult> {
  if (!apiKey)
    throw new CliError('--api-key: a key is needed; give it, or set TINKER_API_KEY', { exitCode: 2 });
  const run = await describeRun(version);
  const subject = await openUrlSubject({ url, apiKey, baseModel: model });
  try {
    const found = await runSubjectCases(subject, options);
    return { ...run, subject: url, model, repeats: options.repeats, ...found };
  } finally {
    await subject.close();
  }
}

async function findAddon(): Promise<string> {
  const progress = terminalProgress();
  const prepared = await prepareTensorflow({ onProgress: progress.onProgress }).finally(progress.stop);
  if (prepared.addonPath === undefined)
    throw new CliError(`TensorFlow can't be used here: ${prepared.notes.join(' ')}`);
  return prepared.addonPath;
}
