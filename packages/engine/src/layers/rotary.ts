/** Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), half-split form as Hugging Face checkpoints use it. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { type RopeScaling, ropeAmplitude, ropeFrequencies } from './rope-scaling.ts';

export interface RopeConfig {
  theta: number;
  /** Rotated dimensions per head; even. */
  dim: number;
  scaling: RopeScaling;
  /** For positions along three axes (time, row, column): how many frequencies turn with each; see {@link axisOf}. */
  sections?: readonly number[];
}

/** Cosines and sines for the positions of x: [1 or batch, time, dim / 2]. */
export interface RopeTensors {
  cos: Tensor;
  sin: Tensor;
}

/** Host-side table of cosines and sines for positions 0 … length - 1, each [length, dim / 2]. */
export function ropeTable(config: RopeConfig, length: number): { cos: Float32Array; sin: Float32Array } {
  const frequencies = ropeFrequencies(config);
  const amplitude = ropeAmplitude(config.scaling);
  const half = frequencies.length;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let position = 0; position < length; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * (frequencies[i] as number);
      cos[position * half + i] = amplitude * Math.cos(angle);
      sin[position * half + i] = amplitude * Math.sin(angle);
    }
  }
  return { cos, sin };
}

/**
 * The axis whose positions a frequency turns with. Axes take turns, and the first takes what the others leave (interleaved
 * M-RoPE, as Qwen3-VL and Qwen3.5 have it); where all three positions are equal, as in text, it is ordinary rotary.
 */
function axisOf({ sections }: RopeConfig, frequency: number): 0 | 1 | 2 {
  const axis = (frequency % 3) as 0 | 1 | 2;
  return axis > 0 && frequency < 3 * (sections?.[axis] ?? 0) ? axis : 0;
}

/**
 * As {@link ropeTable}, for any positions, each [positions, dim / 2].
 * @param axes Time, row and column of each position
 */
export function axialRopeTable(
  config: RopeConfig,
  axes: readonly [Int32Array, Int32Array, Int32Array],
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = ropeFrequencies(config);
  const amplitude = ropeAmplitude(config.scaling);
  const half = frequencies.length;
  const cos = new Float32Array(axes[0].length * half);
  const sin = new Float32Array(axes[0].length * half);
  for (let i = 0; i < half; i++) {
    const positions = axes[axisOf(config, i)];
    for (let at = 0; at < positions.length; at++) {
      const angle = positions[at]! * frequencies[i]!;
      cos[at * half + i] = amplitude * Math.cos(angle);
      sin[at * half + i] = amplitude * Math.sin(angle);
    }
  }
  return { cos, sin };
}

/**
 * Rotates each head's dimension pairs (i, i + dim/2) by the position's angle.
 * @param x [batch, heads, time, dim]
 */
export function applyRope(x: Tensor, { cos, sin }: RopeTensors): Tensor {
  const [first, second] = tf.split(x, 2, -1) as [Tensor, Tensor];
  const c = tf.expandDims(cos, 1);
  const s = tf.expandDims(sin, 1);
  return tf.concat(
    [tf.sub(tf.mul(first, c), tf.mul(second, s)), tf.add(tf.mul(second, c), tf.mul(first, s))],
    -1,
  );
}

/**
 * {@link applyRope} on each head's first dimensions, as many as `rope` has; the others stay as they are.
 * @param x [batch, heads, time, dim]
 */
export function applyPartialRope(x: Tensor, rope: RopeTensors): Tensor {
  const rotated = 2 * (rope.cos.shape[2] as number);
  const dim = x.shape[3] as number;
  if (rotated === dim) return applyRope(x, rope);
  const [first, rest] = tf.split(x, [rotated, dim - rotated], -1) as [Tensor, Tensor];
  return tf.concat([applyRope(first, rope), rest], -1);
}

/**
 * {@link applyRope} for checkpoints that pair dimensions (2i, 2i + 1). The result has the halves apart, in queries and keys
 * alike, which leaves their products the same.
 * @param x [batch, heads, time, dim]
 */
export function applyInterleavedRope(x: Tensor, rope: RopeTensors): Tensor {
  const [batch, heads, time, dim] = x.shape as [number, number, number, number];
  const pairs = tf.transpose(tf.reshape(x, [batch, heads, time, dim / 2, 2]), [0, 1, 2, 4, 3]);
  return applyRope(tf.reshape(pairs, x.shape), rope);
}
