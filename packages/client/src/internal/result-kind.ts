/** The kinds of results that are fetched later, and how each is read. */
import {
  CreateCustomLossResponse,
  CreateModelResponse,
  decodeForwardBackwardOutput,
  decodeSampleResponse,
  ForwardBackwardOutput,
  LoadWeightsResponse,
  OptimStepResponse,
  SampleResponse,
  SaveWeightsExternalResponseInternal,
  SaveWeightsForSamplerResponseInternal,
  SaveWeightsResponse,
  UnloadModelResponse,
} from '@anneal/types';
import type * as z from 'zod';

export interface ResultKind<T> {
  /** Value of `X-Tinker-Request-Type`. */
  name: string;
  schema: z.ZodType<T>;
  /** Set for results that come as protobuf. */
  decode?: (bytes: Uint8Array) => T;
}

export const CREATE_MODEL = { name: 'CreateModel', schema: CreateModelResponse };
export const UNLOAD_MODEL = { name: 'UnloadModel', schema: UnloadModelResponse };
export const OPTIM_STEP = { name: 'OptimStep', schema: OptimStepResponse };
export const SAVE_WEIGHTS = { name: 'SaveWeights', schema: SaveWeightsResponse };
export const LOAD_WEIGHTS = { name: 'LoadWeights', schema: LoadWeightsResponse };
export const SAVE_WEIGHTS_FOR_SAMPLER = {
  name: 'SaveWeightsForSampler',
  schema: SaveWeightsForSamplerResponseInternal,
};
export const SAVE_WEIGHTS_EXTERNAL = {
  name: 'SaveWeightsExternal',
  schema: SaveWeightsExternalResponseInternal,
};
export const CREATE_CUSTOM_LOSS = { name: 'CreateCustomLoss', schema: CreateCustomLossResponse };

export const FORWARD: ResultKind<ForwardBackwardOutput> = {
  name: 'Forward',
  schema: ForwardBackwardOutput,
  decode: decodeForwardBackwardOutput,
};

export const FORWARD_BACKWARD: ResultKind<ForwardBackwardOutput> = { ...FORWARD, name: 'ForwardBackward' };

export const SAMPLE: ResultKind<SampleResponse> = {
  name: 'Sample',
  schema: SampleResponse,
  decode: (bytes) => decodeSampleResponse(bytes),
};
