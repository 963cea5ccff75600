/** For tests of losses: datums in plain numbers, evaluated compiled, as in a request. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum, HostTensor } from '../engine.ts';
import type { LossDefinition } from './loss.ts';
import { prepareLoss } from './run-loss.ts';

export type Numbers = number[] | number[][];

/** The current logprob of each target, and the loss's inputs by name. */
export interface LossCase {
  logprobs: Numbers;
  inputs: Record<string, Numbers>;
}

export interface LossOutcome {
  loss: number;
  /** With respect to the logprobs of each datum, flat. */
  gradients: number[][];
  metrics: Record<string, number>;
  /** The function's terms per position, padded. */
  elementwise: Float32Array | undefined;
}

export const VOCAB_SIZE = 100;

export function float32(values: Numbers): HostTensor {
  const flat = Float32Array.from(values.flat());
  const first = values[0];
  return {
    dtype: 'float32',
    shape: Array.isArray(first) ? [values.length, first.length] : [values.length],
    data: flat,
  };
}

/** A datum of made-up tokens, with targets of the shape of `logprobs`. */
export function datumOf({ logprobs, inputs }: LossCase): EngineDatum {
  const { shape, data } = float32(logprobs);
  const targets: HostTensor = {
    dtype: 'int64',
    shape,
    data: BigInt64Array.from({ length: data.length }, (_, i) => BigInt(i % VOCAB_SIZE)),
  };
  return {
    tokens: Int32Array.from({ length: logprobs.length }, (_, i) => (i * 7) % VOCAB_SIZE),
    inputs: {
      target_tokens: targets,
      ...Object.fromEntries(Object.entries(inputs).map(([name, values]) => [name, float32(values)])),
    },
  };
}

/** Loss, gradient and metrics of one request. `computed` stands for what the engine would fill in, per datum. */
export function evaluate(
  definition: LossDefinition,
  config: Record<string, number | string>,
  cases: LossCase[],
  computed?: number[][],
): LossOutcome {
  const prepared = prepareLoss(definition, config, cases.map(datumOf), VOCAB_SIZE);
  const logprobs = new Float32Array(prepared.shape.reduce((a, b) => a * b));
  const name = definition.baseLogprobsInput?.(prepared.config);
  prepared.elements.forEach((elements, row) => {
    const values = cases[row]!.logprobs.flat();
    elements.forEach((element, i) => {
      logprobs[element] = values[i]!;
      if (name && computed) prepared.inputs[name]![element] = computed[row]![i]!;
    });
  });
  const run = compile(`test_${definition.name}`, ({ lp }: { lp: Tensor }) => ({
    ...prepared.compute(lp),
    gradient: tf.grad((x: Tensor) => prepared.compute(x).loss)(lp),
  }));
  const result = run({ lp: tf.tensor(logprobs, prepared.shape) });
  const gradient = result.gradient.dataSync();
  return {
    loss: result.loss.dataSync()[0]!,
    gradients: prepared.elements.map((elements) => elements.map((i) => gradient[i]!)),
    metrics: Object.fromEntries(
      Object.entries(result.metrics).map(([key, value]) => [key, value.dataSync()[0]!]),
    ),
    elementwise: result.elementwise?.dataSync() as Float32Array | undefined,
  };
}

/** A repeatable uniform generator (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
