/** A server that speaks the Tinker API, through the TypeScript client: Anneal's own, or another one by its URL. */
import { Datum, ModelInput, type SamplingClient, ServiceClient, type TrainingClient } from '@anneal/client';
import { BENCH_RANK, type BenchModel, type BenchSampler, type Subject } from './subject.ts';

export interface UrlSubjectOptions {
  url: string;
  apiKey: string;
  baseModel: string;
  /** Where the server is a process of this machine. */
  pid?: number;
  vocabSize?: number;
}

/** A server that does not say how long its context is still has room for the usual cases. */
const ASSUMED_CONTEXT = 2048;
/** The API does not say how large a vocabulary is; smaller ones are rare. */
const ASSUMED_VOCAB = 30_000;

export async function openUrlSubject({
  url,
  apiKey,
  baseModel,
  pid,
  vocabSize,
}: UrlSubjectOptions): Promise<Subject> {
  const service = new ServiceClient({ baseUrl: url, apiKey, displayName: 'bench' });
  const { supported_models: models } = await service.getServerCapabilities();
  const served = models.find(({ model_name }) => model_name === baseModel);
  return {
    label: url,
    maxContextLength: served?.max_context_length ?? ASSUMED_CONTEXT,
    vocabSize: vocabSize ?? ASSUMED_VOCAB,
    streams: false,
    pid,
    createModel: async () =>
      modelOf(
        await service.createLoraTrainingClient({ baseModel, rank: BENCH_RANK, seed: 1, trainUnembed: false }),
      ),
    close: () => service.close('success'),
  };
}

function modelOf(client: TrainingClient): BenchModel {
  return {
    forwardBackward: async (sequences) => {
      await client.forwardBackward(sequences.map(datumOf), 'cross_entropy');
    },
    optimStep: async () => {
      await client.optimStep({ learning_rate: 1e-4 });
    },
    sampler: async () => samplerOf(await client.saveWeightsAndGetSamplingClient()),
    close: async () => {
      await client.unload();
    },
  };
}

function datumOf(sequence: Int32Array): Datum {
  const ids = [...sequence];
  return Datum.from({
    model_input: ModelInput.fromInts(ids.slice(0, -1)),
    loss_fn_inputs: { target_tokens: ids.slice(1), weights: new Array(ids.length - 1).fill(1) },
  });
}

function samplerOf(client: SamplingClient): BenchSampler {
  return {
    generate: async ({ prompt, numSamples, maxTokens, promptLogprobs }) => {
      const { sequences } = await client.sample({
        prompt: [...prompt],
        numSamples,
        samplingParams: { max_tokens: maxTokens, temperature: 0, stop: [] },
        includePromptLogprobs: promptLogprobs,
      });
      return sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    },
    close: async () => {},
  };
}
