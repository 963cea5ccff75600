/** The head over a whole pass: picks the real positions, normalises and runs them, and puts results back in their rows. */
import { type CompiledVjp, compileVjp, type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import type { MicroBatch } from './batch-plan.ts';
import { HEAD_CHUNK } from './head.ts';
import { type HeadRunner, headRunner } from './head-runner.ts';

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
  readonly #head: HeadRunner;
  readonly #norm: CompiledVjp<{ x: Tensor; weight: Tensor; rows: Tensor }>;

  constructor(base: BaseModel) {
    this.#base = base;
    this.#head = headRunner(base);
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
    const { real, targets } = positions;
    const headRows = { h, count: real.length, targets, k };
    const { logprobs: scored, ...gradients } = dlogprobs
      ? this.#head.gradients(headRows, adapter, pickRows(dlogprobs, real, k))
      : { logprobs: this.#head.logprobs(headRows, adapter) };
    scatterRows(scored, logprobs, real, k);
    tf.dispose(h);
    if (!('dh' in gradients)) {
      tf.dispose([rows, ...residuals]);
      return { logprobs, gradients: undefined };
    }
    const { dh, adapterGrads } = gradients;
    const [dx] = this.#norm.backward(normInputs, residuals, dh);
    tf.dispose([rows, dh, ...residuals]);
    return { logprobs, gradients: { dx: dx!, adapterGrads } };
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

/** Values of single positions, [positions, k]. */
function pickRows(values: Float32Array, positions: number[], k: number): Float32Array {
  const picked = new Float32Array(positions.length * k);
  positions.forEach((position, i) => {
    picked.set(values.subarray(position * k, (position + 1) * k), i * k);
  });
  return picked;
}

/** Puts what {@link pickRows} picks back into its place. */
function scatterRows(values: Float32Array, into: Float32Array, positions: number[], k: number): void {
  positions.forEach((position, i) => {
    into.set(values.subarray(i * k, (i + 1) * k), position * k);
  });
}

function copyPositions(from: Float32Array, into: Float32Array, positions: number[], k: number): void {
  for (const position of positions) into.set(from.subarray(position * k, (position + 1) * k), position * k);
}
