/**
 * The gated delta rule (Yang et al. 2025, arXiv:2412.06464): a matrix per head remembers values under keys. Each position
 * lets it fade, corrects by a share β what it says for the position's key, and reads it with the position's query:
 *
 *     S ← e^g S,  S ← S + k ⊗ β (v − Sᵀ k),  y = Sᵀ q
 */
import { type Tensor, tf, triangularSolve } from '@anneal/tensorflow';
import { MASKED } from './attention.ts';

/** Positions whose corrections are solved for together. */
const CHUNK = 64;

export interface DeltaRuleInput {
  /** [batch, key heads, time, key dim], scaled; equal groups of heads share a key head */
  q: Tensor;
  k: Tensor;
  /** [batch, heads, time, value dim] */
  v: Tensor;
  /** g and β, [batch, heads, time]; both zero where a position shall not count */
  logDecay: Tensor;
  beta: Tensor;
  /** [batch, heads, key dim, value dim]; undefined: zeros */
  state?: Tensor;
}

export interface DeltaRuleOutput {
  /** [batch, heads, time, value dim] */
  y: Tensor;
  state: Tensor;
}

/**
 * All positions at once. Within a chunk each correction depends on those before it, as a triangular matrix says, and all are
 * had from one solve (the WY form, Yang et al. 2024, arXiv:2406.06484); only the memory goes from chunk to chunk.
 */
export function chunkedDeltaRule({ q, k, v, logDecay, beta, state }: DeltaRuleInput): DeltaRuleOutput {
  const [batch, , time, keyDim] = k.shape as [number, number, number, number];
  const [, heads, , valueDim] = v.shape as [number, number, number, number];
  const made = chunks({ q, k, v, logDecay, beta });
  const memory = state && tf.reshape(state, [batch * heads, keyDim, valueDim]);
  const { y, memory: last } = throughChunks(made, valueDim, memory);
  const whole = tf.reshape(y, [batch, heads, -1, valueDim]);
  return {
    y: whole.shape[2] === time ? whole : tf.slice(whole, [0, 0, 0, 0], [batch, heads, time, valueDim]),
    state: tf.reshape(last, [batch, heads, keyDim, valueDim]),
  };
}

/** What a chunk is to the memory, which is [batch · heads, key dim, value dim]. */
interface Chunk {
  /** Corrections as if the memory had been empty, and what of its content is to be taken off: [.., size, value dim + key dim] */
  solved: Tensor;
  /** How queries see the chunk's own corrections, [.., size, size] */
  attention: Tensor;
  /** Decayed since the chunk's start, and until its end: [.., size, key dim] */
  queries: Tensor;
  keys: Tensor;
  /** What is left of the memory at the end, [.., 1, 1] */
  left: Tensor;
}

function chunks({ q, k, v, logDecay, beta }: DeltaRuleInput): Chunk[] {
  const [batch, keyHeads, time] = k.shape as [number, number, number];
  const heads = v.shape[1] as number;
  const size = Math.min(CHUNK, time);
  const count = Math.ceil(time / size);
  /** [batch, some heads, time, dim] → [batch · key heads, heads per key head, chunks, size, dim] */
  const cut = (x: Tensor): Tensor => {
    const [, own, , dim] = x.shape as [number, number, number, number];
    const padding = [0, 0, count * size - time, 0].map((after): [number, number] => [0, after]);
    const padded = padding[2]![1] === 0 ? x : tf.pad(x, padding);
    return tf.reshape(padded, [batch * keyHeads, own / keyHeads, count, size, dim]);
  };
  const [queries, keys, values] = [cut(q), cut(k), cut(v)];
  const share = cut(tf.expandDims(beta, 3));
  // Summed along the last axis: tfjs has the gradient right for that one only.
  const decay = tf.expandDims(tf.cumsum(tf.squeeze(cut(tf.expandDims(logDecay, 3)), [4]), 3), 4) as Tensor;
  const end = tf.slice(decay, [0, 0, 0, size - 1, 0], [-1, -1, -1, 1, 1]);
  const sinceStart = tf.exp(decay);
  const { below, diagonal, above } = triangles(size);
  // What is left, at a row's position, of what a column's position put in.
  const left = tf.exp(tf.add(tf.sub(decay, tf.transpose(decay, [0, 1, 2, 4, 3])), above));
  const similarity = (x: Tensor) => tf.matMul(x as never, keys as never, false, true) as Tensor;
  const system = tf.add(tf.mul(tf.mul(tf.mul(similarity(keys), share), left), below), diagonal) as Tensor;
  const right = tf.concat([tf.mul(values, share), tf.mul(keys, tf.mul(share, sinceStart))], -1) as Tensor;
  const perChunk = (x: Tensor): Tensor[] => {
    const [rows, columns] = x.shape.slice(3) as [number, number];
    // tfjs has no gradient of an unstacking into one.
    if (count === 1) return [tf.reshape(x, [batch * heads, rows, columns])];
    return tf.unstack(tf.reshape(x, [batch * heads, count, rows, columns]), 1);
  };
  const parts = {
    solved: perChunk(triangularSolve(system, right)),
    attention: perChunk(tf.mul(similarity(queries), left)),
    queries: perChunk(tf.mul(queries, sinceStart)),
    keys: perChunk(tf.mul(keys, tf.exp(tf.sub(end, decay)))),
    left: perChunk(tf.exp(end)),
  };
  return parts.solved.map((solved, i) => ({
    solved,
    attention: parts.attention[i]!,
    queries: parts.queries[i]!,
    keys: parts.keys[i]!,
    left: parts.left[i]!,
  }));
}

/** @returns y [batch · heads, chunks, size, value dim] */
function throughChunks(all: Chunk[], valueDim: number, memory?: Tensor): { y: Tensor; memory: Tensor } {
  let state = memory;
  const ys = all.map(({ solved, attention, queries, keys, left }) => {
    const keyDim = keys.shape[2] as number;
    const [fromEmpty, reads] = tf.split(solved, [valueDim, keyDim], -1) as [Tensor, Tensor];
    const corrections = state ? tf.sub(fromEmpty, tf.matMul(reads as never, state as never)) : fromEmpty;
    const within = tf.matMul(attention as never, corrections as never) as Tensor;
    const y = state ? tf.add(tf.matMul(queries as never, state as never), within) : within;
    const added = tf.matMul(keys as never, corrections as never, true, false) as Tensor;
    state = state ? tf.add(tf.mul(state, left), added) : added;
    return y;
  });
  return { y: tf.stack(ys, 1), memory: state! };
}

/** Of [size, size]: ones below the diagonal, ones on it, and {@link MASKED} above it. */
function triangles(size: number): { below: Tensor; diagonal: Tensor; above: Tensor } {
  const make = (value: (row: number, column: number) => number): Tensor =>
    tf.tensor2d(
      Float32Array.from({ length: size * size }, (_, i) => value(Math.floor(i / size), i % size)),
      [size, size],
    );
  return {
    below: make((row, column) => (row > column ? 1 : 0)),
    diagonal: make((row, column) => (row === column ? 1 : 0)),
    above: make((row, column) => (row < column ? MASKED : 0)),
  };
}

/** One position, [batch, heads, 1, …], after a state. */
export function deltaRuleStep({
  q,
  k,
  v,
  logDecay,
  beta,
  state,
}: DeltaRuleInput & { state: Tensor }): DeltaRuleOutput {
  const [batch, keyHeads, , keyDim] = k.shape as [number, number, number, number];
  const [, heads, , valueDim] = v.shape as [number, number, number, number];
  const group = heads / keyHeads;
  /** [batch, heads or key heads, 1, dim] → [batch · key heads, group or 1, …, …] */
  const grouped = (x: Tensor, rows: number, columns: number): Tensor =>
    tf.reshape(x, [batch * keyHeads, (x.shape[1] as number) / keyHeads, rows, columns]);
  const memory = grouped(state, keyDim, valueDim);
  const left = tf.exp(grouped(logDecay, 1, 1));
  const share = grouped(beta, 1, 1);
  const [key, query] = [grouped(k, 1, keyDim), grouped(q, 1, keyDim)];
  const lookups = tf.tile(tf.concat([key, query], 2), [1, group, 1, 1]);
  const found = tf.mul(tf.matMul(lookups as never, memory as never) as Tensor, left);
  const [atKey, atQuery] = tf.split(found, 2, 2) as [Tensor, Tensor];
  const correction = tf.mul(tf.sub(grouped(v, 1, valueDim), atKey), share);
  const agreement = tf.sum(tf.mul(key, query), 3, true);
  const added = tf.mul(grouped(k, keyDim, 1), correction);
  return {
    y: tf.reshape(tf.add(atQuery, tf.mul(correction, agreement)), [batch, heads, 1, valueDim]),
    state: tf.reshape(tf.add(tf.mul(memory, left), added), state.shape),
  };
}
