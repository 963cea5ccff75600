/** Runs a loss, compiled, on one pass's logprobs. */
import { compile, type Tensor, type Tree, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import type { LossConfig, LossDefinition } from '../losses/loss.ts';
import type { MetricsPart } from '../losses/metrics.ts';
import type { MicroBatch } from './batch-plan.ts';

export interface EvaluatedLoss {
  metrics: MetricsPart;
  /** [height, width, k], already scaled for the call; only when asked for. */
  dlogprobs?: Float32Array;
  /** [rows, width] */
  elementwise?: Float32Array;
}

interface LossTree {
  [key: string]: Tree;
  logprobs: Tensor;
  mask: Tensor;
  inputs: Record<string, Tensor>;
  /** JSON, so that it is part of what the compiled variant is keyed by. */
  config: string;
  withGradient: boolean;
}

interface LossTensors {
  [key: string]: Tree;
  loss: Tensor;
  elementwise: Tensor | undefined;
  metrics: Record<string, Tensor>;
  dlogprobs: Tensor | undefined;
}

const compiled = new WeakMap<LossDefinition, (inputs: LossTree) => LossTensors>();

function compiledLoss(loss: LossDefinition): (inputs: LossTree) => LossTensors {
  let fn = compiled.get(loss);
  if (!fn) {
    fn = compile(
      `loss_${loss.name}`,
      ({ logprobs, mask, inputs, config, withGradient }: LossTree): LossTensors => {
        const parsed = JSON.parse(config) as LossConfig;
        const evaluate = (lp: Tensor) => loss.compute({ logprobs: lp, mask, inputs }, parsed);
        const { loss: value, elementwise, metrics } = evaluate(logprobs);
        const dlogprobs = withGradient ? tf.grad((lp: Tensor) => evaluate(lp).loss)(logprobs) : undefined;
        return { loss: value, elementwise, metrics, dlogprobs };
      },
    );
    compiled.set(loss, fn);
  }
  return fn;
}

/**
 * @param logprobs [height, width, k] on the host
 * @param inputs By name, [rows, width, k] on the host
 */
export function evaluateLoss(
  loss: LossDefinition,
  config: LossConfig,
  scale: number,
  batch: MicroBatch,
  data: EngineDatum[],
  logprobs: Float32Array,
  inputs: Record<string, Float32Array>,
  withGradient: boolean,
): EvaluatedLoss {
  const { datums, width, targetsPerPosition: k } = batch;
  const rows = datums.length;
  const isTopK = data[datums[0]!]!.inputs.target_tokens!.shape.length === 2;
  const shape = isTopK ? [rows, width, k] : [rows, width];
  const tensor = (values: Float32Array) => tf.tensor(values.subarray(0, rows * width * k), shape, 'float32');
  const tree: LossTree = {
    logprobs: tensor(logprobs),
    mask: tf.tensor2d(maskValues(batch, data), [rows, width]),
    inputs: Object.fromEntries(Object.entries(inputs).map(([name, values]) => [name, tensor(values)])),
    config: JSON.stringify(config),
    withGradient,
  };
  const result = compiledLoss(loss)(tree);
  tf.dispose([tree.logprobs, tree.mask, ...Object.values(tree.inputs)]);
  return readLoss(result, scale, batch);
}

function readLoss(result: LossTensors, scale: number, batch: MicroBatch): EvaluatedLoss {
  const { loss, elementwise, metrics, dlogprobs: gradient } = result;
  const scalar = (tensor: Tensor) => tensor.dataSync()[0] as number;
  const values: Record<string, number> = { 'loss:sum': scalar(loss) * scale };
  for (const [key, metric] of Object.entries(metrics)) values[key] = scalar(metric);
  const evaluated: EvaluatedLoss = { metrics: { values, datums: batch.datums.length } };
  if (elementwise) evaluated.elementwise = elementwise.dataSync() as Float32Array;
  if (gradient) {
    evaluated.dlogprobs = new Float32Array(batch.height * batch.width * batch.targetsPerPosition);
    evaluated.dlogprobs.set((gradient.dataSync() as Float32Array).map((g) => g * scale));
  }
  const optional = [elementwise, gradient].filter((tensor) => tensor !== undefined);
  tf.dispose([loss, ...Object.values(metrics), ...optional]);
  return evaluated;
}

function maskValues({ datums, width }: MicroBatch, data: EngineDatum[]): Float32Array {
  const values = new Float32Array(datums.length * width);
  datums.forEach((datum, row) => {
    values.fill(1, row * width, row * width + data[datum]!.tokens.length);
  });
  return values;
}
