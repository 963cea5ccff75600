import { tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { archFixture, maxDifference } from '../testing/fixtures.ts';
import { logitsOf } from '../training/head.ts';
import { LayerStack } from '../training/layer-stack.ts';
import { BaseModel } from './base-model.ts';

const fixture = archFixture('llama3');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const stack = new LayerStack(base);

test('every layer of a sequence equals torch', () => {
  const [{ tokens }] = fixture.reference.sequences as [{ tokens: number[] }];
  const ids = tf.tensor2d(tokens, [1, tokens.length], 'int32');
  stack.forward(ids, undefined, (layer, x) => {
    expect(maxDifference(x.dataSync(), fixture.tensors.readFloat32Sync(`hidden.${layer}`))).toBeLessThan(
      2e-4,
    );
  });
});

test.each([0, 1, 2])('logits of sequence %i equal torch', (i) => {
  const { tokens } = fixture.reference.sequences[i]!;
  const x = stack.forward(tf.tensor2d(tokens, [1, tokens.length], 'int32'), undefined);
  const h = base.architecture.finalNorm(base.config, tf.squeeze(x, [0]), base.finalNorm);
  expect(
    maxDifference(
      logitsOf(h, base.head, undefined).dataSync(),
      fixture.tensors.readFloat32Sync(`logits.${i}`),
    ),
  ).toBeLessThan(2e-4);
});
