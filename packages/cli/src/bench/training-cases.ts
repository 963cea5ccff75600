/** Training: one step is forward_backward and optim_step, with cross-entropy on every token. */
import { type BenchCase, type OpenCase, type Run, timed, tooLong } from './bench-case.ts';
import { mixedLengths, randomSequences } from './random-tokens.ts';
import type { BenchModel, Subject } from './subject.ts';

const PIPELINED_STEPS = 4;
const MIXED = { count: 24, shortest: 24, longest: 512 };
const TRAINED_TOGETHER = { sequences: 8, length: 256 };

export const trainingCases: BenchCase[] = [
  fixedShape(4, 256),
  fixedShape(8, 256),
  mixedShapes(),
  pipelined(4, 256),
  ...[1, 2, 8].map(adaptersTogether),
  ...[128, 256, 512, 1024, 2048, 4096].map(context),
];

function fixedShape(batch: number, length: number): BenchCase {
  return {
    id: `train/${batch}x${length}`,
    title: `train step, ${batch} sequences of ${length} tokens`,
    skip: tooLong(length),
    open: (subject) => stepCase(subject, () => new Array(batch).fill(length)),
  };
}

function mixedShapes(): BenchCase {
  const { count, shortest, longest } = MIXED;
  return {
    id: 'train/mixed',
    title: `train step, ${count} sequences of ${shortest} to ${longest} tokens`,
    skip: tooLong(longest),
    open: async (subject) => {
      const lengths = mixedLengths(count, shortest, longest, 1);
      const open = await stepCase(subject, () => lengths);
      return { ...open, facts: () => paddingFacts(subject, () => open.run(-1)) };
    },
  };
}

async function paddingFacts(subject: Subject, run: () => Promise<Run>): Promise<Record<string, number>> {
  if (!subject.paddingWaste) return {};
  return { paddingWaste: await subject.paddingWaste(async () => void (await run())) };
}

function context(length: number): BenchCase {
  return {
    id: `context/${length}`,
    title: `train step, 1 sequence of ${length} tokens`,
    slow: length > 1024,
    skip: tooLong(length),
    open: (subject) => stepCase(subject, () => [length]),
  };
}

function pipelined(batch: number, length: number): BenchCase {
  return {
    id: 'pipelined',
    title: `${PIPELINED_STEPS} train steps of ${batch}x${length} sent without waiting for results`,
    skip: tooLong(length),
    open: async (subject) => {
      const model = await subject.createModel();
      return {
        run: async (seed) => {
          const steps = Array.from({ length: PIPELINED_STEPS }, (_, i) =>
            sequences(subject, new Array(batch).fill(length), seed * PIPELINED_STEPS + i),
          );
          const seconds = await timed(() =>
            Promise.all(steps.flatMap((data) => [model.forwardBackward(data), model.optimStep()])),
          );
          return { seconds, tokens: PIPELINED_STEPS * batch * length };
        },
        close: () => model.close(),
      };
    },
  };
}

/** The same sequences in all, divided among more and more models that train at once. */
function adaptersTogether(adapters: number): BenchCase {
  const { sequences: total, length } = TRAINED_TOGETHER;
  return {
    id: `adapters/${adapters}`,
    title: `train step of ${adapters} model${adapters > 1 ? 's at once' : ''}, ${total}x${length} in all`,
    skip: tooLong(length),
    open: async (subject) => {
      const models = await createModels(subject, adapters);
      return {
        run: async (seed) => {
          const data = sequences(subject, new Array(total).fill(length), seed);
          const each = total / adapters;
          const seconds = await timed(() =>
            Promise.all(models.map((model, i) => trainStep(model, data.slice(i * each, (i + 1) * each)))),
          );
          return { seconds, tokens: total * length };
        },
        close: async () => {
          for (const model of models) await model.close();
        },
      };
    },
  };
}

async function stepCase(subject: Subject, lengths: () => number[]): Promise<OpenCase> {
  const model = await subject.createModel();
  return {
    run: async (seed) => {
      const data = sequences(subject, lengths(), seed);
      return { seconds: await timed(() => trainStep(model, data)), tokens: tokensOf(data) };
    },
    close: () => model.close(),
  };
}

/** One step; both calls are sent together, as clients do. */
export async function trainStep(model: BenchModel, data: Int32Array[]): Promise<void> {
  await Promise.all([model.forwardBackward(data), model.optimStep()]);
}

/** Models one after another, so that each has a seed of its own. */
export async function createModels(subject: Subject, count: number): Promise<BenchModel[]> {
  const models: BenchModel[] = [];
  while (models.length < count) models.push(await subject.createModel());
  return models;
}

/** Each sequence has one id more than tokens that are trained: the last one is only a target. */
function sequences(subject: Subject, lengths: number[], seed: number): Int32Array[] {
  return randomSequences(
    lengths.map((length) => length + 1),
    seed,
    subject.vocabSize,
  );
}

/** Tokens that a step over these sequences trains on. */
export function tokensOf(data: Int32Array[]): number {
  return data.reduce((sum, { length }) => sum + length - 1, 0);
}
