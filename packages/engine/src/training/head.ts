/**
 * The model's last step in training: hidden rows → logprobs of given targets, and back. Works on chunks of rows, so that
 * logits over the whole vocabulary exist for one chunk at a time only.
 */
import { compile, type MatmulPrecision, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';

/** Rows of logits that exist at once: 128 × 49k floats are 25 MB. */
export const HEAD_CHUNK = 128;

interface HeadInputs {
  [key: string]: Tensor | { [key: string]: Tensor | number } | undefined;
  /** [rows, hidden], after the final norm */
  h: Tensor;
  /** [vocab, hidden] */
  weight: Tensor;
  lora: { a: Tensor; b: Tensor; scale: number } | undefined;
  /** int32 [rows, k] */
  targets: Tensor;
}

export interface HeadGradients {
  /** [rows, hidden] */
  dh: Tensor;
  /** [rank, hidden] and [vocab, rank], where the head is adapted */
  da?: Tensor;
  db?: Tensor;
}

/** Logits of hidden rows: [rows, hidden] → [rows, vocab]. */
export function logitsOf(h: Tensor, weight: Tensor, lora: LoraTensors | undefined): Tensor {
  const logits = tf.matMul(h as never, weight as never, false, true);
  return lora
    ? tf.add(logits, tf.matMul(loraReduced(h, lora) as never, lora.b as never, false, true))
    : logits;
}

function loraReduced(h: Tensor, { a, scale }: LoraTensors): Tensor {
  return tf.mul(tf.matMul(h as never, a as never, false, true), scale);
}

/** log softmax at the targets, and what its gradient needs. */
function score({ h, weight, lora, targets }: HeadInputs) {
  const logits = logitsOf(h, weight, lora);
  const shifted = tf.sub(logits, tf.max(logits, -1, true));
  const exponentials = tf.exp(shifted);
  const total = tf.sum(exponentials, -1, true);
  const picked = tf.gather(shifted, targets as never, 1, 1);
  // Rounding could leave a certain token a hair above log 1.
  return { logprobs: tf.minimum(tf.sub(picked, tf.log(total)), 0), exponentials, total };
}

/**
 * Gradient of Σ dlogprobs · logprobs. With p the softmax and G the sum of a row's dlogprobs,
 * dlogits = Σₖ dlogprobsₖ · onehot(targetₖ) − G p; its product with the weights needs no one-hot matrix.
 */
function gradients(
  inputs: HeadInputs,
  dlogprobs: Tensor,
  exponentials: Tensor,
  total: Tensor,
): HeadGradients {
  const { h, weight, lora, targets } = inputs;
  const spread = tf.mul(exponentials, tf.div(tf.sum(dlogprobs, -1, true), total));
  const times = (matrix: Tensor) =>
    tf.sub(weightedRows(matrix, targets, dlogprobs), tf.matMul(spread as never, matrix as never));
  const dh = times(weight);
  if (!lora) return { dh };
  const reduced = loraReduced(h, lora);
  const dreduced = tf.mul(times(lora.b), lora.scale);
  const [rows, k] = targets.shape as [number, number];
  const rank = reduced.shape[1] as number;
  const toTargets = tf.reshape(tf.mul(tf.expandDims(reduced, 1), tf.expandDims(dlogprobs, 2)), [
    rows * k,
    rank,
  ]);
  const scattered = tf.unsortedSegmentSum(
    toTargets as never,
    tf.reshape(targets, [rows * k]) as never,
    weight.shape[0] as number,
  );
  return {
    dh: tf.add(dh, tf.matMul(dreduced as never, lora.a as never)),
    da: tf.matMul(dreduced as never, h as never, true, false),
    db: tf.sub(scattered, tf.matMul(spread as never, reduced as never, true, false)),
  };
}

/** Σₖ factorₖ · matrix[targetₖ] per row: [rows, width]. */
function weightedRows(matrix: Tensor, targets: Tensor, factors: Tensor): Tensor {
  return tf.sum(tf.mul(tf.gather(matrix, targets as never), tf.expandDims(factors, -1)), 1);
}

/** Compiled head functions of one precision. */
export function createHead(matmulPrecision: MatmulPrecision) {
  const options = { matmulPrecision };
  return {
    /** Logprobs of the targets, [rows, k]. */
    logprobs: compile(
      'head_logprobs',
      (inputs: HeadInputs) => ({ logprobs: score(inputs).logprobs }),
      options,
    ),
    /** Gradients for known dlogprobs [rows, k]; logprobs come along for free. */
    gradients: compile(
      'head_gradients',
      ({ dlogprobs, ...inputs }: HeadInputs & { dlogprobs: Tensor }) => {
        const { logprobs, exponentials, total } = score(inputs as HeadInputs);
        return { logprobs, ...gradients(inputs as HeadInputs, dlogprobs, exponentials, total) };
      },
      options,
    ),
  };
}

export type Head = ReturnType<typeof createHead>;
