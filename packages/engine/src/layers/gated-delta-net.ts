/**
 * Gated DeltaNet (Yang et al. 2025, arXiv:2412.06464), linear attention whose cache does not grow: a short convolution over
 * queries, keys and values, the gated delta rule, and a norm of each head's output with a gate of its own.
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from './attention.ts';
import { causalConvolution, lastInputs } from './causal-convolution.ts';
import { chunkedDeltaRule, deltaRuleStep } from './delta-rule.ts';
import { silu } from './gated-mlp.ts';
import { type LoraTensors, linear, loraUpdate } from './linear.ts';
import type { RecurrentState } from './recurrent-state.ts';
import { rmsNorm } from './rms-norm.ts';

export interface DeltaNetConfig {
  keyHeads: number;
  valueHeads: number;
  keyDim: number;
  valueDim: number;
  /** Positions that the convolution sees, its own included. */
  kernelSize: number;
}

/** Adapters of the fused map's parts, in the order of its rows. */
const PARTS = ['queries', 'keys', 'values'] as const;

/** Keeps a head of zeros from being divided by zero. */
const UNIT_EPS = 1e-6;

/** Widths of queries, keys and values in the fused map. */
export function fusedWidths({ keyHeads, valueHeads, keyDim, valueDim }: DeltaNetConfig): number[] {
  return [keyHeads * keyDim, keyHeads * keyDim, valueHeads * valueDim];
}

/** What a sequence leaves: the convolution's last inputs, and the delta rule's memory. */
export function deltaNetState(config: DeltaNetConfig): Record<'inputs' | 'memory', number[]> {
  const channels = fusedWidths(config).reduce((sum, width) => sum + width, 0);
  return {
    inputs: [config.kernelSize - 1, channels],
    memory: [config.valueHeads, config.keyDim, config.valueDim],
  };
}

/**
 * @param x [batch, time, hidden]
 * @param w `qkv`, `z`, `a`, `b`, `out`, the matrices; `conv` [channels, 1, kernel]; `aLog` and `dtBias` [value heads];
 * `outNorm` [value dim]
 * @param lora Under `qkv` or, for its parts, `queries`, `keys`, `values`; `z`, `a`, `b`, `out`
 */
export function gatedDeltaNet(
  x: Tensor,
  w: Record<string, Tensor>,
  lora: Record<string, LoraTensors>,
  config: DeltaNetConfig & { normEps: number },
  { before, lengths, keep }: RecurrentState,
): Tensor {
  const { keyHeads, valueHeads, keyDim, kernelSize } = config;
  const mixed = causalConvolution(fused(x, w.qkv!, lora, config), w.conv!, before?.inputs);
  const [q, k, v] = tf.split(silu(mixed.y), fusedWidths(config), -1) as [Tensor, Tensor, Tensor];
  const unit = (heads: Tensor) =>
    tf.mul(heads, tf.rsqrt(tf.add(tf.sum(tf.square(heads), -1, true), UNIT_EPS)));
  const counts = lengths && realPositions(lengths, x.shape[1] as number);
  const perHead = (gate: Tensor) => tf.transpose(counts ? tf.mul(gate, counts) : gate, [0, 2, 1]);
  const rate = tf.softplus(tf.add(linear(x, w.a!, lora.a), w.dtBias!));
  const input = {
    q: tf.mul(unit(splitHeads(q, keyHeads)), 1 / Math.sqrt(keyDim)),
    k: unit(splitHeads(k, keyHeads)),
    v: splitHeads(v, valueHeads),
    logDecay: perHead(tf.neg(tf.mul(rate, tf.exp(w.aLog!)))),
    beta: perHead(tf.sigmoid(linear(x, w.b!, lora.b))),
  };
  const memory = before?.memory;
  const isStep = memory && x.shape[1] === 1;
  const { y, state } = isStep
    ? deltaRuleStep({ ...input, state: memory })
    : chunkedDeltaRule({ ...input, state: memory });
  keep?.({ inputs: lastInputs(mixed.seen, kernelSize, lengths), memory: state });
  const gate = silu(splitHeads(linear(x, w.z!, lora.z), valueHeads));
  const gated = tf.mul(rmsNorm(y, w.outNorm!, config.normEps), gate);
  return linear(mergeHeads(gated), w.out!, lora.out);
}

/** Queries, keys and values side by side; adapters are of the whole or of each part. */
function fused(x: Tensor, weight: Tensor, lora: Record<string, LoraTensors>, config: DeltaNetConfig): Tensor {
  const whole = linear(x, weight, lora.qkv);
  if (!PARTS.some((part) => lora[part])) return whole;
  const [batch, time] = x.shape as [number, number, number];
  const updates = fusedWidths(config).map((width, i) => {
    const adapter = lora[PARTS[i]!];
    return adapter ? loraUpdate(x, adapter) : tf.zeros([batch, time, width]);
  });
  return tf.add(whole, tf.concat(updates, -1));
}

/** One where a row's position counts, zero beyond its length: [batch, time, 1]. */
function realPositions(lengths: Tensor, time: number): Tensor {
  const within = tf.less(tf.expandDims(tf.range(0, time, 1, 'int32'), 0), tf.expandDims(lengths, 1));
  return tf.expandDims(tf.cast(within, 'float32'), -1);
}
