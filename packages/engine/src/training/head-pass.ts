/** The head over a whole pass: picks the real positions, runs them chunk by chunk, and puts results back in their rows. */
import { type CompiledVjp, compileVjp, type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import type { MicroBatch } from './batch-plan.ts';
import { addInto } from './gradient-sum.ts';
import { createHead, HEAD_CHUNK, type Head } from './head.ts';

/** Positions of a pass, padded to whole chunks with position 0 of row 0 (whose extra copies are ignored). */
interface Positions {
  /** Index into [height · width], per real position. */
  real: number[];
  padded: Int32Array;
  /** int32 values [padded, k] */
  targets: Int32Array;
}

export class HeadPass {
  readonly #base: BaseModel;
  readonly #head: Head;
  readonly #norm: CompiledVjp<{ x: Tensor; weight: Tensor; rows: Tensor }>;

  constructor(base: BaseModel) {
    this.#base = base;
    this.#head = createHead(base.matmulPrecision);
    // Rows are picked before the norm: padding is never normalised, and the gradient scatters back by itself.
    this.#norm = compileVjp(
      'final_norm',
      ({ x, weight, rows }) =>
        base.architecture.finalNorm(base.config, tf.gather(flatRows(x), rows as never), weight),
      ({ x }) => [x],
      { residuals: 'recompute' },
    );
  }

  /** Logprobs of the targets at the wanted positions, [height, width, k] on the host; 0 elsewhere. */
  logprobs(
    x: Tensor,
    adapter: LoraAdapter | undefined,
    batch: MicroBatch,
    data: EngineDatum[],
    wanted: (position: number) => boolean = () => true,
  ): Float32Array {
    const positions = pickPositions(batch, data, wanted);
    return this.#run(x, adapter, batch, positions, undefined).logprobs;
  }

  /**
   * Gradients of Σ dlogprobs · logprobs, and the logprobs on the way.
   * @param dlogprobs [height, width, k] on the host; positions where it is zero skip the backward.
   * @param wanted Positions in [0, height · width) that count.
   */
  gradients(
    x: Tensor,
    adapter: LoraAdapter,
    batch: MicroBatch,
    data: EngineDatum[],
    dlogprobs: Float32Array,
    wanted: (position: number) => boolean = () => true,
  ) {
    const k = batch.targetsPerPosition;
    const matters = (position: number) => {
      for (let i = position * k; i < (position + 1) * k; i++) if (dlogprobs[i] !== 0) return true;
      return false;
    };
    const active = this.#run(
      x,
      adapter,
      batch,
      pickPositions(batch, data, (p) => wanted(p) && matters(p)),
      dlogprobs,
    );
    const silent = pickPositions(batch, data, (p) => wanted(p) && !matters(p));
    if (silent.real.length > 0)
      copyPositions(
        this.#run(x, adapter, batch, silent, undefined).logprobs,
        active.logprobs,
        silent.real,
        k,
      );
    return { logprobs: active.logprobs, gradients: active.gradients! };
  }

  #run(
    x: Tensor,
    adapter: LoraAdapter | undefined,
    batch: MicroBatch,
    positions: Positions,
    dlogprobs: Float32Array | undefined,
  ) {
    const k = batch.targetsPerPosition;
    const logprobs = new Float32Array(batch.height * batch.width * k);
    if (positions.real.length === 0) return { logprobs, gradients: dlogprobs && zeroGradients(x, adapter) };
    const rows = tf.tensor1d(positions.padded, 'int32');
    const normInputs = { x, weight: this.#base.finalNorm, rows };
    const { output: h, residuals } = this.#norm.forward(normInputs);
    const dhs: Tensor[] = [];
    let adapterGrads: Tensor[] | undefined;
    for (let start = 0; start < positions.padded.length; start += HEAD_CHUNK) {
      const chunk = {
        h: tf.slice(h, [start, 0], [HEAD_CHUNK, -1]),
        weight: this.#base.head,
        lora: adapter?.headTensors() as { a: Tensor; b: Tensor; scale: number } | undefined,
        targets: tf.tensor2d(
          positions.targets.subarray(start * k, (start + HEAD_CHUNK) * k),
          [HEAD_CHUNK, k],
          'int32',
        ),
      };
      let values: Tensor;
      if (dlogprobs) {
        const weights = chunkWeights(positions, dlogprobs, start, k);
        const result = this.#head.gradients({ ...chunk, dlogprobs: weights });
        values = result.logprobs;
        dhs.push(result.dh);
        if (result.da && result.db) adapterGrads = addInto(adapterGrads, [result.da, result.db]);
        weights.dispose();
      } else {
        values = this.#head.logprobs(chunk).logprobs;
      }
      scatterChunk(values.dataSync() as Float32Array, logprobs, positions, start, k);
      tf.dispose([values, chunk.h, chunk.targets]);
    }
    const gradients = dlogprobs && this.#finish(normInputs, residuals, dhs, adapterGrads);
    tf.dispose([rows, h, ...residuals, ...dhs]);
    return { logprobs, gradients };
  }

  #finish(
    normInputs: { x: Tensor; weight: Tensor; rows: Tensor },
    residuals: Tensor[],
    dhs: Tensor[],
    adapterGrads: Tensor[] | undefined,
  ): { dx: Tensor; adapterGrads: Tensor[] } {
    const dh = tf.concat(dhs, 0);
    const [dx] = this.#norm.backward(normInputs, residuals, dh);
    dh.dispose();
    return { dx: dx!, adapterGrads: adapterGrads ?? [] };
  }
}

function zeroGradients(x: Tensor, adapter: LoraAdapter | undefined): { dx: Tensor; adapterGrads: Tensor[] } {
  const adapterGrads = adapter?.head ? [tf.zerosLike(adapter.head.a), tf.zerosLike(adapter.head.b)] : [];
  return { dx: tf.zerosLike(x), adapterGrads };
}

/** [batch, time, hidden] → [batch · time, hidden] */
function flatRows(x: Tensor): Tensor {
  const [batch, time, hidden] = x.shape as [number, number, number];
  return tf.reshape(x, [batch * time, hidden]);
}

function pickPositions(
  batch: MicroBatch,
  data: EngineDatum[],
  wanted: (position: number) => boolean,
): Positions {
  const { width, targetsPerPosition: k } = batch;
  const real: number[] = [];
  const values: number[] = [];
  batch.datums.forEach((datum, row) => {
    const { tokens, inputs } = data[datum]!;
    const targets = inputs.target_tokens!.data;
    for (let t = 0; t < tokens.length; t++) {
      const position = row * width + t;
      if (!wanted(position)) continue;
      real.push(position);
      for (let i = 0; i < k; i++) values.push(Number(targets[t * k + i]));
    }
  });
  const length = Math.ceil(real.length / HEAD_CHUNK) * HEAD_CHUNK;
  const padded = new Int32Array(length);
  padded.set(real);
  const targets = new Int32Array(length * k);
  targets.set(values);
  return { real, padded, targets };
}

/** dlogprobs of a chunk's positions, [chunk, k]; zero for the padding, so that it has no gradient. */
function chunkWeights({ real }: Positions, dlogprobs: Float32Array, start: number, k: number): Tensor {
  const values = new Float32Array(HEAD_CHUNK * k);
  for (let i = start; i < Math.min(real.length, start + HEAD_CHUNK); i++) {
    values.set(dlogprobs.subarray(real[i]! * k, (real[i]! + 1) * k), (i - start) * k);
  }
  return tf.tensor2d(values, [HEAD_CHUNK, k]);
}

function scatterChunk(
  values: Float32Array,
  into: Float32Array,
  { real }: Positions,
  start: number,
  k: number,
): void {
  for (let i = start; i < Math.min(real.length, start + HEAD_CHUNK); i++) {
    into.set(values.subarray((i - start) * k, (i - start + 1) * k), real[i]! * k);
  }
}

function copyPositions(from: Float32Array, into: Float32Array, positions: number[], k: number): void {
  for (const position of positions) into.set(from.subarray(position * k, (position + 1) * k), position * k);
}
