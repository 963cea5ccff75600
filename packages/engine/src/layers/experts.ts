/**
 * A sparse feed-forward layer: each token is computed by the few experts that a router picks for it (Shazeer et al. 2017,
 * arXiv:1701.06538). Rows are sorted by expert and multiplied in groups, so the cost is that of the picked experts, and no
 * expert has a capacity beyond which tokens are dropped.
 */
import { groupedMatMul, type Tensor, tf } from '@anneal/tensorflow';
import { constant } from './constant.ts';
import { silu } from './gated-mlp.ts';
import type { LoraTensors } from './linear.ts';

/** Which experts compute which tokens. A pair is a token with one of its experts; sorted pairs have equal experts together. */
export interface Routing {
  /** [tokens, perToken], what each expert's output counts */
  weights: Tensor;
  /** int32 [pairs], the pair at each sorted place, and the sorted place of each pair */
  order: Tensor;
  inverse: Tensor;
  /** int32 [pairs], the expert at each sorted place */
  expertOfRow: Tensor;
  /** int32 [experts], pairs of each */
  sizes: Tensor;
  perToken: number;
}

/** Gate and up of an expert → what its down map reads. */
export type ExpertActivation = (gate: Tensor, up: Tensor) => Tensor;

const gatedSilu: ExpertActivation = (gate, up) => tf.mul(silu(gate), up);

/**
 * The best `k` experts of each token; a constant to gradients.
 * @param scores [tokens, experts]
 * @returns int32 [tokens, k], best first
 */
export function topExperts(scores: Tensor, k: number): Tensor {
  return constant(() => tf.topk(scores, k, true).indices);
}

/**
 * Scores at chosen experts, with gradients.
 * @param scores [tokens, experts]
 * @param chosen int32 [tokens, k]
 * @returns [tokens, k]
 */
export function scoresAt(scores: Tensor, chosen: Tensor): Tensor {
  const picks = constant(() => tf.oneHot(chosen as never, scores.shape[1] as number, 1, 0, 'float32'));
  return tf.sum(tf.mul(picks, tf.expandDims(scores, 1)), -1);
}

/**
 * Sorts (token, expert) pairs by expert.
 * @param chosen int32 [tokens, perToken]
 * @param weights [tokens, perToken]
 */
export function routing(chosen: Tensor, weights: Tensor, numExperts: number): Routing {
  const [tokens, perToken] = chosen.shape as [number, number];
  const experts = tf.reshape(chosen, [tokens * perToken]);
  const order = constant(() => ascending(experts));
  return {
    weights,
    order,
    inverse: constant(() => ascending(order)),
    expertOfRow: constant(() => tf.gather(experts, order as never)),
    sizes: constant(() =>
      tf.cast(tf.sum(tf.oneHot(experts as never, numExperts, 1, 0, 'float32'), 0), 'int32'),
    ),
    perToken,
  };
}

/** Indices that sort distinct or equal integers, equal ones in their order. */
function ascending(values: Tensor): Tensor {
  return tf.topk(tf.neg(values), values.shape[0] as number, true).indices;
}

/**
 * Σ over a token's experts of weight · w2(activation(w1(x), w3(x))).
 * @param x [batch, time, hidden]
 * @param weights `w1` (gate) and `w3` (up) [experts, intermediate, hidden], `w2` (down) [experts, hidden, intermediate], and
 * where the family has them `w1Bias`, `w3Bias` [experts, intermediate], `w2Bias` [experts, hidden]
 * @param lora Adapters under `w1`, `w3`, `w2`
 * @param routed Of the batch · time tokens
 */
export function experts(
  x: Tensor,
  weights: Record<string, Tensor>,
  lora: Record<string, LoraTensors>,
  routed: Routing,
  activation: ExpertActivation = gatedSilu,
): Tensor {
  const [batch, time, hidden] = x.shape as [number, number, number];
  const rows = dispatch(tf.reshape(x, [batch * time, hidden]), routed);
  const map = (name: string, input: Tensor) =>
    expertLinear(input, weights[name]!, routed, batch, lora[name], weights[`${name}Bias`]);
  const y = map('w2', activation(map('w1', rows), map('w3', rows)));
  const perToken = tf.reshape(collect(y, routed), [batch * time, routed.perToken, hidden]);
  return tf.reshape(tf.sum(tf.mul(perToken, tf.expandDims(routed.weights, -1)), 1), x.shape);
}

/** [tokens, hidden] → a row per sorted pair. Gradients come back by a gather, which a scatter would be slower at. */
function dispatch(x: Tensor, { order, inverse, perToken }: Routing): Tensor {
  const [tokens, hidden] = x.shape as [number, number];
  return permuting(
    x,
    [order, inverse],
    (values, to) => tf.gather(values, tf.floorDiv(to, tf.scalar(perToken, 'int32')) as never),
    (dy, back) => tf.sum(tf.reshape(tf.gather(dy, back as never), [tokens, perToken, hidden]), 1),
  );
}

/** A row per sorted pair → a row per pair. */
function collect(y: Tensor, { order, inverse }: Routing): Tensor {
  const pick = (values: Tensor, from: Tensor) => tf.gather(values, from as never);
  return permuting(y, [inverse, order], pick, pick);
}

function permuting(
  x: Tensor,
  [to, back]: [Tensor, Tensor],
  forward: (x: Tensor, to: Tensor) => Tensor,
  backward: (dy: Tensor, back: Tensor) => Tensor,
): Tensor {
  return tf.customGrad((...args) => {
    const [values, save] = args as unknown as [Tensor, (tensors: Tensor[]) => void];
    save([back]);
    return {
      value: forward(values, to),
      gradFunc: (dy: Tensor, saved: Tensor[]) => backward(dy, saved[0]!),
    };
  })(x);
}

/** One linear map of every expert, over sorted rows [pairs, in] → [pairs, out]. */
function expertLinear(
  rows: Tensor,
  weight: Tensor,
  routed: Routing,
  batch: number,
  lora: LoraTensors | undefined,
  bias: Tensor | undefined,
): Tensor {
  let y = groupedMatMul(rows, weight, routed.sizes, { transposed: true, trainable: false });
  if (bias) y = tf.add(y, tf.gather(bias, routed.expertOfRow as never));
  if (!lora) return y;
  const low = lora.rows ? manyAdapters(rows, routed, batch, lora, lora.rows) : oneAdapter(rows, routed, lora);
  return tf.add(y, low);
}

/** scale · (x Aᵀ) Bᵀ with each row's expert's A and B, or the one that all experts share. */
function oneAdapter(rows: Tensor, { sizes }: Routing, { a, b, scale }: LoraTensors): Tensor {
  const times = (x: Tensor, matrices: Tensor) =>
    matrices.shape[0] === 1 && sizes.shape[0] !== 1
      ? tf.matMul(x as never, tf.squeeze(matrices, [0]) as never, false, true)
      : groupedMatMul(x, matrices, sizes, { transposed: true, trainable: true });
  return times(tf.mul(times(rows, a), scale), b);
}

/** The same where batch rows have different adapters: each sorted row picks its own A and B. */
function manyAdapters(
  rows: Tensor,
  { order, expertOfRow }: Routing,
  batch: number,
  { a, b, scale }: LoraTensors,
  adapterOfBatchRow: Tensor,
): Tensor {
  const perBatchRow = tf.scalar((order.shape[0] as number) / batch, 'int32');
  const adapter = tf.gather(adapterOfBatchRow, tf.floorDiv(order, perBatchRow) as never);
  const times = (x: Tensor, stacked: Tensor) => {
    const [adapters, count, ...matrix] = stacked.shape as [number, number, number, number];
    const flat = tf.reshape(stacked, [adapters * count, ...matrix]);
    const index = count === 1 ? adapter : tf.add(tf.mul(adapter, tf.scalar(count, 'int32')), expertOfRow);
    return tf.matMul(x as never, tf.gather(flat, index as never) as never, false, true);
  };
  return tf.squeeze(times(tf.mul(times(tf.expandDims(rows, 1), a), scale), b), [1]);
}
