/** `anneal bench`: opens what is to be measured, runs the cases, closes it. */
import { writeFile } from 'node:fs/promises';
import type { Precision } from '@anneal/engine';
import { inspectModel } from '@anneal/hub';
import { TENSORFLOW_VERSION } from '@anneal/tensorflow';
import type { BenchCommandOptions } from '../commands/bench.ts';
import { version } from '../version.ts';
import { keyFor } from './api-key.ts';
import { benchServer } from './bench-server.ts';
import { chromeTrace, type Mark } from './chrome-trace.ts';
import { type EngineSubject, openEngineSubject } from './engine-subject.ts';
import { findModel } from './find-model.ts';
import { describeMachine } from './machine.ts';
import type { BenchResult } from './result.ts';
import { type BenchOptions, type CasesResult, isWanted, runSubjectCases, subjectCases } from './run-bench.ts';
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

async function benchMachine(command: BenchCommandOptions, options: BenchOptions): Promise<BenchResult> {
  const { precision } = command;
  const { name, ...found } = await findModel(command.model);
  const about = { version, date: new Date().toISOString(), machine: await describeMachine() };
  const engine = await benchEngine({ ...found, precision, profile: command.profile }, options);
  // A profile shows the engine's thread, and a server's is in another process.
  const { vocabSize = 0 } = await inspectModel(found.folder);
  const server =
    command.profile === undefined
      ? await benchServer({ folder: found.folder, vocabSize, precision }, options)
      : { cases: [], skipped: [] };
  const memory = { ...named('engine', engine), ...named('server', server) };
  return {
    ...about,
    subject: 'engine and server on this machine',
    backend: `TensorFlow ${TENSORFLOW_VERSION}`,
    model: name,
    precision,
    repeats: options.repeats,
    cases: [...engine.cases, ...server.cases],
    skipped: [...engine.skipped, ...server.skipped],
    memory,
  };
}

function named(name: string, { memory }: { memory?: CasesResult['memory'] }) {
  return memory === undefined ? {} : { [name]: memory };
}

interface EngineRun {
  addonPath: string;
  folder: string;
  precision: Precision;
  profile: string | undefined;
}

/** Nothing is loaded where no case of the engine is asked for. */
async function benchEngine(
  { profile, ...subjectOptions }: EngineRun,
  options: BenchOptions,
): Promise<CasesResult> {
  if (!subjectCases.some((bench) => isWanted(bench, options))) return { cases: [], skipped: [] };
  const subject = await openEngineSubject({ ...subjectOptions, profiling: profile !== undefined });
  try {
    return profile === undefined
      ? await runSubjectCases(subject, subjectCases, options)
      : await profiledCases(subject, profile, options);
  } finally {
    await subject.close();
  }
}

async function profiledCases(
  subject: EngineSubject,
  file: string,
  options: BenchOptions,
): Promise<CasesResult> {
  const marks: Mark[] = [];
  await subject.engine.startProfile();
  const found = await runSubjectCases(subject, subjectCases, {
    ...options,
    onMark: (mark) => marks.push(mark),
  });
  const profile = await subject.engine.stopProfile();
  await writeFile(file, JSON.stringify(chromeTrace(profile, marks, { version })));
  options.say(`wrote ${file}: open it at https://ui.perfetto.dev or chrome://tracing`);
  if (profile.dropped > 0)
    options.say(`${profile.dropped} spans did not fit: take fewer cases or runs (--case, --repeat)`);
  return found;
}

async function benchUrl(
  url: string,
  { model, apiKey }: BenchCommandOptions,
  options: BenchOptions,
): Promise<BenchResult> {
  const about = { version, date: new Date().toISOString(), machine: await describeMachine() };
  const subject = await openUrlSubject({ url, apiKey: keyFor(apiKey), baseModel: model });
  try {
    const { memory: _, ...found } = await runSubjectCases(subject, subjectCases, options);
    return { ...about, subject: url, model, repeats: options.repeats, ...found };
  } finally {
    await subject.close();
  }
}
