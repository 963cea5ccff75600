/** Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), half-split form as Hugging Face checkpoints use it. */
import { type Tensor, tf } from '@anneal/tensorflow';

/** How a checkpoint stretches its rotary wavelengths beyond the context it was trained on first. */
export type RopeScaling =
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | {
      type: 'llama3';
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPosition: number;
    };

export interface RopeConfig {
  theta: number;
  /** Rotated dimensions per head; even. */
  dim: number;
  scaling: RopeScaling;
}

/** Cosines and sines for the positions of x: [1 or batch, time, dim / 2]. */
export interface RopeTensors {
  cos: Tensor;
  sin: Tensor;
}

/** Angular frequencies [dim / 2], in float64 so that long positions stay exact. */
export function ropeFrequencies({ theta, dim, scaling }: RopeConfig): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => scaleFrequency(theta ** ((-2 * i) / dim), scaling));
}

function scaleFrequency(frequency: number, scaling: RopeScaling): number {
  if (scaling.type === 'default') return frequency;
  if (scaling.type === 'linear') return frequency / scaling.factor;
  // Llama 3.1: long wavelengths are stretched, short ones kept, those between blended.
  const wavelength = (2 * Math.PI) / frequency;
  const low = scaling.originalMaxPosition / scaling.lowFreqFactor;
  const high = scaling.originalMaxPosition / scaling.highFreqFactor;
  if (wavelength < high) return frequency;
  if (wavelength > low) return frequency / scaling.factor;
  const smooth =
    (scaling.originalMaxPosition / wavelength - scaling.lowFreqFactor) /
    (scaling.highFreqFactor - scaling.lowFreqFactor);
  return (1 - smooth) * (frequency / scaling.factor) + smooth * frequency;
}

/** Host-side table of cosines and sines for positions 0 … length - 1, each [length, dim / 2]. */
export function ropeTable(config: RopeConfig, length: number): { cos: Float32Array; sin: Float32Array } {
  const frequencies = ropeFrequencies(config);
  const half = frequencies.length;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let position = 0; position < length; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * (frequencies[i] as number);
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
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
