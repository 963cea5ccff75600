import { decodeForwardBackwardRequest } from '@anneal/types';
import * as tf from '@tensorflow/tfjs';
import { beforeAll, expect, test } from 'vitest';
import type { Logprobs } from '../src/index.ts';
import { tensorLoss } from '../src/tfjs.ts';
import { datumOf, start } from './setup.ts';

beforeAll(() => tf.setBackend('cpu'));

const logprobs: Logprobs[] = [
  { data: Float32Array.of(-0.5, -1, -2), shape: [3] },
  { data: Float32Array.of(-1, -2, -3, -4), shape: [2, 2] },
];

test('the gradient is that of the formula', async () => {
  // sum of (lp - 1)^2: its gradient is 2 (lp - 1).
  const squares = tensorLoss(tf, (_data, tensors: tf.Tensor[]) =>
    tf.addN(tensors.map((lp) => tf.sum(tf.square(tf.sub(lp, 1))))).asScalar(),
  );
  const { loss, gradients } = await squares([], logprobs);
  const values = logprobs.flatMap(({ data }) => [...data]);
  expect(loss).toBeCloseTo(
    values.reduce((sum, lp) => sum + (lp - 1) ** 2, 0),
    4,
  );
  expect(gradients.flatMap((gradient) => [...(gradient as Float32Array)])).toEqual(
    values.map((lp) => 2 * (lp - 1)),
  );
});

test('metrics pass through, and no tensor is left behind', async () => {
  const before = tf.memory().numTensors;
  const loss = tensorLoss(tf, (data, tensors: tf.Tensor[]) => ({
    loss: tf.tidy(() => tf.sum(tensors[0]!).asScalar()),
    metrics: { datums: data.length },
  }));
  const { metrics } = await loss([datumOf(1) as never], logprobs.slice(0, 1));
  expect(metrics).toEqual({ datums: 1 });
  expect(tf.memory().numTensors).toBe(before);
});

test('the negative log-likelihood sends the gradient of the built-in cross-entropy, and reports its loss', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const batch = [datumOf(1, 2, 3), datumOf(4)];
  const nll = tensorLoss(tf, (_data, tensors: tf.Tensor[]) =>
    tf.neg(tf.addN(tensors.map((lp) => tf.sum(lp)))).asScalar(),
  );
  const custom = await model.forwardBackwardCustom(batch, nll);
  const builtIn = await model.forwardBackward(batch, 'cross_entropy');
  expect(custom.metrics['loss:sum']).toBeCloseTo(builtIn.metrics['loss:sum']!, 3);
  const [, backward, plain] = server
    .callsTo('/forward_backward')
    .map(({ body }) => decodeForwardBackwardRequest(body));
  const weights = (request: typeof backward) => request?.data.map(({ inputs }) => [...inputs.weights!.data]);
  expect(weights(backward)).toEqual(weights(plain));
});
