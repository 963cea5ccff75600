/** The engine in a worker thread, as the server runs it, without HTTP around it. */
import {
  createWorkerEngine,
  type Engine,
  type EngineDatum,
  type Precision,
  type ProfilingEngine,
} from '@anneal/engine';
import {
  BENCH_ALPHA,
  BENCH_RANK,
  type BenchModel,
  type BenchSampler,
  type GenerateOptions,
  type Subject,
} from './subject.ts';

export interface EngineSubjectOptions {
  addonPath: string;
  folder: string;
  precision: Precision;
  /** A profile of the whole run is taken, so that none can be taken of a part. */
  profiling?: boolean;
}

export interface EngineSubject extends Subject {
  readonly engine: ProfilingEngine;
}

/** One name is enough: nobody else sees it. */
const MODEL = 'bench';

const ADAM = { learningRate: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, gradClipNorm: 0 };
const LORA = {
  rank: BENCH_RANK,
  alpha: BENCH_ALPHA,
  trainAttn: true,
  trainMlp: true,
  trainUnembed: false,
};

/** @throws EngineError when the model cannot be loaded. */
export async function openEngineSubject({
  addonPath,
  folder,
  precision,
  profiling = false,
}: EngineSubjectOptions): Promise<EngineSubject> {
  const engine = await createWorkerEngine({
    addonPath,
    models: [{ name: MODEL, folder }],
    precision,
  });
  const [base] = await engine.baseModels();
  let created = 0;
  return {
    engine,
    label: 'engine',
    maxContextLength: base!.maxContextLength,
    vocabSize: base!.vocabSize,
    streams: true,
    pid: process.pid,
    createModel: async () => {
      const modelId = `model-${created++}`;
      await engine.createModel({ modelId, baseModel: MODEL, lora: { ...LORA, seed: BigInt(created) } });
      return modelOf(engine, modelId);
    },
    ...(profiling ? {} : { paddingWaste: (work: () => Promise<void>) => paddingWaste(engine, work) }),
    close: () => engine.close(),
  };
}

/** Of all positions in the training passes of `work`, the share without a token. */
async function paddingWaste(engine: ProfilingEngine, work: () => Promise<void>): Promise<number> {
  await engine.startProfile();
  await work();
  const { spans } = await engine.stopProfile();
  const passes = spans.filter(({ name }) => name === 'train pass');
  const sum = (of: (args: Record<string, number>) => number) =>
    passes.reduce((total, { args }) => total + of((args ?? {}) as Record<string, number>), 0);
  return 1 - sum(({ tokens }) => tokens!) / sum(({ height, width }) => height! * width!);
}

function modelOf(engine: Engine, modelId: string): BenchModel {
  let opened = 0;
  return {
    forwardBackward: async (sequences) => {
      await engine.forwardBackward({
        modelId,
        data: sequences.map(datumOf),
        lossFn: 'cross_entropy',
        lossFnConfig: {},
        forwardOnly: false,
      });
    },
    optimStep: async () => {
      await engine.optimStep(modelId, ADAM);
    },
    sampler: async () => {
      const samplerId = `${modelId}-sampler-${opened++}`;
      await engine.openSampler(samplerId, { kind: 'model', modelId });
      return samplerOf(engine, samplerId);
    },
    close: () => engine.unloadModel(modelId),
  };
}

function datumOf(sequence: Int32Array): EngineDatum {
  const length = sequence.length - 1;
  const targets = BigInt64Array.from(sequence.subarray(1), BigInt);
  return {
    tokens: sequence.slice(0, -1),
    inputs: {
      target_tokens: { dtype: 'int64', shape: [length], data: targets },
      weights: { dtype: 'float32', shape: [length], data: new Float32Array(length).fill(1) },
    },
  };
}

function samplerOf(engine: Engine, samplerId: string): BenchSampler {
  return {
    generate: async ({ prompt, numSamples, maxTokens, promptLogprobs, onToken }: GenerateOptions) => {
      const { sequences } = await engine.sample(
        {
          samplerId,
          prompt,
          numSamples,
          params: { maxTokens, temperature: 0, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } },
          promptLogprobs: promptLogprobs ?? false,
          topkPromptLogprobs: 0,
          topkSampleLogprobs: 0,
          promptAltTokensK: 0,
        },
        onToken
          ? {
              onProgress: ({ sequence, tokens }) => {
                for (let i = 0; i < tokens.length; i++) onToken(sequence);
              },
            }
          : {},
      );
      return sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    },
    close: () => engine.closeSampler(samplerId),
  };
}
