/** Types of the public surface. */
import { expectTypeOf, test } from 'vitest';
import type {
  APIFuture,
  ForwardBackwardOutput,
  GetInfoResponse,
  OptimStepResponse,
  RestClient,
  SampleResponse,
  SamplingClient,
  SaveWeightsResponse,
  ServiceClient,
  TrainingClient,
  TrainingRun,
} from '../src/index.ts';

test('calls return futures of the wire types', () => {
  expectTypeOf<TrainingClient['forwardBackward']>().returns.toEqualTypeOf<APIFuture<ForwardBackwardOutput>>();
  expectTypeOf<TrainingClient['optimStep']>().returns.toEqualTypeOf<APIFuture<OptimStepResponse>>();
  expectTypeOf<TrainingClient['saveState']>().returns.toEqualTypeOf<APIFuture<SaveWeightsResponse>>();
  expectTypeOf<TrainingClient['getInfo']>().returns.toEqualTypeOf<GetInfoResponse>();
  expectTypeOf<SamplingClient['sample']>().returns.toEqualTypeOf<APIFuture<SampleResponse>>();
  expectTypeOf<SamplingClient['computeLogprobs']>().returns.toEqualTypeOf<APIFuture<(number | null)[]>>();
  expectTypeOf<ServiceClient['createLoraTrainingClient']>().returns.toEqualTypeOf<
    APIFuture<TrainingClient>
  >();
  expectTypeOf<RestClient['trainingRuns']>().returns.toExtend<AsyncIterable<TrainingRun>>();
});

test('awaiting a future gives its result', () => {
  expectTypeOf<Awaited<APIFuture<SampleResponse>>>().toEqualTypeOf<SampleResponse>();
});

test('wire types keep their names, options are camelCase', () => {
  expectTypeOf<Parameters<TrainingClient['optimStep']>[0]>()
    .extract<{ learning_rate?: number }>()
    .not.toBeNever();
  expectTypeOf<Parameters<SamplingClient['sample']>[0]>().toHaveProperty('samplingParams');
  expectTypeOf<Parameters<ServiceClient['createLoraTrainingClient']>[0]>().toHaveProperty('seed');
  expectTypeOf<Parameters<ServiceClient['createLoraTrainingClient']>[0]['seed']>().toEqualTypeOf<
    number | bigint | undefined
  >();
});

test('what is not accepted does not compile', () => {
  type Loss = Parameters<TrainingClient['forwardBackward']>[1];
  expectTypeOf<'mean_squared_error'>().not.toExtend<Loss>();
  expectTypeOf<{ maxTokens: number }>().not.toExtend<
    Parameters<SamplingClient['sample']>[0]['samplingParams']
  >();
});
