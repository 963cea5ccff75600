/** The head over hidden rows, for training: by compiled functions chunk by chunk, or on a CPU by one native call. */
import { canCallNatively, type Tensor, tf, trainingHead } from '@anneal/tensorflow';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { addInto } from './gradient-sum.ts';
import { createHead, HEAD_CHUNK } from './head.ts';

/** Rows whose targets are scored. */
export interface HeadRows {
  /** After the final norm, [padded rows, hidden]: whole chunks, of which the first `count` rows matter. */
  h: Tensor;
  count: number;
  /** [padded rows, k] */
  targets: Int32Array;
  k: number;
}

export interface RowGradients {
  /** As h; zero in the padding. */
  dh: Tensor;
  /** Of the head's A and B, where it is adapted. */
  adapterGrads: Tensor[];
}

export interface HeadRunner {
  /** Log-probabilities of the targets, [count, k]. */
  logprobs(rows: HeadRows, adapter: LoraAdapter | undefined): Float32Array;
  /**
   * The same, and gradients of Σ dlogprobs · logprobs, which are the caller's.
   * @param dlogprobs [count, k]
   */
  gradients(
    rows: HeadRows,
    adapter: LoraAdapter | undefined,
    dlogprobs: Float32Array,
  ): RowGradients & { logprobs: Float32Array };
}

/** The runner for this machine. */
export function headRunner(base: BaseModel): HeadRunner {
  // Products in bfloat16 take values in pairs.
  return canCallNatively() && base.config.hiddenSize % 2 === 0 ? nativeHead(base) : compiledHead(base);
}

function nativeHead(base: BaseModel): HeadRunner {
  const inputsOf = ({ h, count, targets, k }: HeadRows, adapter: LoraAdapter | undefined) => ({
    ...{ h, weight: base.head, lora: adapter?.headTensors(), k },
    bfloat16Products: base.matmulPrecision === 'bf16',
    targets: targets.subarray(0, count * k),
  });
  return {
    logprobs: (rows, adapter) => trainingHead(inputsOf(rows, adapter)).logprobs,
    gradients(rows, adapter, dlogprobs) {
      const { logprobs, gradients } = trainingHead(inputsOf(rows, adapter), dlogprobs);
      const { dh, da, db } = gradients;
      return { logprobs, dh, adapterGrads: da && db ? [da, db] : [] };
    },
  };
}

/** Logits exist for one chunk of rows at a time. */
export function compiledHead(base: BaseModel): HeadRunner {
  const head = createHead(base.matmulPrecision);
  const run = (
    { h, count, targets, k }: HeadRows,
    adapter: LoraAdapter | undefined,
    dlogprobs: Float32Array | undefined,
  ) => {
    const logprobs = new Float32Array(count * k);
    const dhs: Tensor[] = [];
    let adapterGrads: Tensor[] | undefined;
    for (let start = 0; start < count; start += HEAD_CHUNK) {
      const [from, to] = [start * k, (start + HEAD_CHUNK) * k];
      const chunk = {
        h: tf.slice(h, [start, 0], [HEAD_CHUNK, -1]),
        weight: base.head,
        lora: adapter?.headTensors() as { a: Tensor; b: Tensor; scale: number } | undefined,
        targets: tf.tensor2d(targets.subarray(from, to), [HEAD_CHUNK, k], 'int32'),
      };
      let values: Tensor;
      if (dlogprobs) {
        // Zero for the padding, so that it has no gradient.
        const padded = new Float32Array(HEAD_CHUNK * k);
        padded.set(dlogprobs.subarray(from, to));
        const weights = tf.tensor2d(padded, [HEAD_CHUNK, k]);
        const result = head.gradients({ ...chunk, dlogprobs: weights });
        values = result.logprobs;
        dhs.push(result.dh);
        if (result.da && result.db) adapterGrads = addInto(adapterGrads, [result.da, result.db]);
        weights.dispose();
      } else {
        values = head.logprobs(chunk).logprobs;
      }
      logprobs.set((values.dataSync() as Float32Array).subarray(0, count * k - from), from);
      tf.dispose([values, chunk.h, chunk.targets]);
    }
    return { logprobs, dhs, adapterGrads: adapterGrads ?? [] };
  };
  return {
    logprobs: (rows, adapter) => run(rows, adapter, undefined).logprobs,
    gradients(rows, adapter, dlogprobs) {
      const { dhs, ...rest } = run(rows, adapter, dlogprobs);
      const dh = tf.concat(dhs, 0);
      tf.dispose(dhs);
      return { ...rest, dh };
    },
  };
}
