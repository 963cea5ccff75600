/**
 * What a loss is to the engine: a pure function of target logprobs, written as a forward only; gradients come from tfjs
 * and the result is compiled. One file per loss, listed in registry.ts.
 */
import type { Tensor } from '@anneal/tensorflow';
import type { z } from 'zod';
import type { EngineDatum } from '../engine.ts';

/** A loss's parsed `loss_fn_config`. */
export type LossConfig = { readonly [key: string]: unknown };

/** A named tensor that a datum brings along; every one has the shape of `target_tokens`. */
export interface LossInput<Config extends LossConfig = LossConfig> {
  /** Value of every position when a datum leaves the input out. Without it and `fill` the input is required. */
  default?: number;
  /**
   * The same where the value depends on the datum's other inputs or on the config: one number for all positions, or one
   * per element; `undefined` means that the input is required after all.
   */
  fill?(datum: EngineDatum, config: Config): number | Float32Array | undefined;
  /** Refuses values outside, naming datum and position. */
  min?: number;
  max?: number;
}

/** One batch as the loss sees it. Rows are datums, padded at the end. */
export interface LossBatch {
  /** log p(target) at each position, [datums, time], or [datums, time, k] for losses with `allowsTopK`. */
  logprobs: Tensor;
  /** 1 at real positions, 0 in the padding: [datums, time]. Padded positions hold logprob 0 and input 0. */
  mask: Tensor;
  /** By name, shaped like `logprobs`. */
  inputs: Record<string, Tensor>;
}

export interface LossResult {
  /** Scalar: the sum that is differentiated. */
  loss: Tensor;
  /** Terms per position, [datums, time]; sum to `loss` where it is a sum over positions. Must be finite: others are reported. */
  elementwise?: Tensor;
  /** Scalars by `name:reduction` (TINKER-API section 10), besides `loss:sum`. Means are means over datums. */
  metrics: Record<string, Tensor>;
}

export interface LossDefinition<Config extends LossConfig = LossConfig> {
  name: string;
  /** Keys of `loss_fn_config` with their defaults and ranges; unknown keys are refused. */
  config: z.ZodType<Config>;
  /** Inputs besides `target_tokens`; others are refused. */
  inputs: Record<string, LossInput<Config>>;
  /** Whether `target_tokens` may be [T, K]. */
  allowsTopK?: boolean;
  /** Datums that belong together (pairs) come as adjacent groups of this size and are never split. 1 when absent. */
  groupSize?: number;
  /** Indices of the datums in the order in which they are adjacent; as they came when absent. Called after `validate`. */
  order?(data: EngineDatum[], config: Config): number[];
  /** Name of an input that the engine fills with the base model's logprobs when this config asks for it. */
  baseLogprobsInput?(config: Config): string | undefined;
  /** Checks across a call's datums that a schema cannot express; throws EngineError (user). */
  validate?(data: EngineDatum[], config: Config): void;
  /** Scales the loss by a number known per call, such as 1 / pairs for a mean; 1 when absent. */
  callScale?(data: EngineDatum[], config: Config): number;
  /**
   * dL/dlogprob at each position is known without the logprobs (it is minus this input), so that forward and backward of
   * the head run in one pass. Only for losses that are linear in the logprobs.
   */
  linearWeights?: string;
  /** What tfjs has no gradient for (comparisons, `round`) or what is to count as a constant goes through `stopGradient`. */
  compute(batch: LossBatch, config: Config): LossResult;
}
