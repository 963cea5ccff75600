/** A loss on logprobs that are given instead of computed by a model: what gradient checks and tests of losses run. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import { checkDatums, padInputs, parseLossConfig, targetsPerPosition } from './inputs.ts';
import type { LossConfig, LossDefinition, LossResult } from './loss.ts';

/** A request's datums, checked and padded as the engine does it. */
export interface PreparedLoss {
  config: LossConfig;
  /** Of the padded logprobs: [datums, width] or [datums, width, k]. */
  shape: number[];
  /** Where the elements of each datum stand among the padded ones. */
  elements: number[][];
  /** Padded inputs by name. The engine's own (`baseLogprobsInput`) is 0; it may be written to before `compute`. */
  inputs: Record<string, Float32Array>;
  /** @param logprobs Of `shape`. The loss is scaled as for one call. */
  compute(logprobs: Tensor): LossResult;
}

/** @throws EngineError (user) as for a request. */
export function prepareLoss(
  definition: LossDefinition,
  rawConfig: Record<string, number | string>,
  request: EngineDatum[],
  vocabSize: number,
): PreparedLoss {
  const config = parseLossConfig(definition, rawConfig);
  checkDatums(definition, config, request, vocabSize, Infinity);
  definition.validate?.(request, config);
  const order = definition.order?.(request, config) ?? [...request.keys()];
  const data = order.map((datum) => request[datum]!);
  const width = Math.max(...data.map(({ tokens }) => tokens.length));
  const k = Math.max(...data.map(targetsPerPosition));
  const isTopK = data.some(({ inputs }) => inputs.target_tokens!.shape.length === 2);
  const shape = isTopK ? [data.length, width, k] : [data.length, width];
  const inputs = padInputs(definition, config, data, width, k);
  const mask = data.map(({ tokens }) => Array.from({ length: width }, (_, t) => (t < tokens.length ? 1 : 0)));
  const scale = definition.callScale?.(data, config) ?? 1;
  return {
    config,
    shape,
    elements: request.map(({ tokens }, datum) => {
      const first = order.indexOf(datum) * width * k;
      return Array.from({ length: tokens.length * k }, (_, i) => first + i);
    }),
    inputs,
    compute(logprobs) {
      const tensors = Object.entries(inputs).map(
        ([name, values]) => [name, tf.tensor(values, shape)] as const,
      );
      const batch = { logprobs, mask: tf.tensor2d(mask), inputs: Object.fromEntries(tensors) };
      const { loss, ...rest } = definition.compute(batch, config);
      return { ...rest, loss: tf.mul(loss, scale) };
    },
  };
}
