/** The engine in a worker thread, as the server runs it, without HTTP around it. */
import { createWorkerEngine, type Engine, type EngineDatum, type Precision } from '@anneal/engine';
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
}: EngineSubjectOptions): Promise<Subject> {
  const engine = await createWorkerEngine({
    addonPath,
    models: [{ name: MODEL, folder }],
    precision,
  });
  const [base] = await engine.baseModels();
  let created = 0;
  return {
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
    close: () => engine.close(),
  };
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
