/** What the trainer itself promises; its numbers are compared for every family in models/families.test.ts. */
import { tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import { type EngineDatum, EngineError } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, loraSpec, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { Trainer } from './trainer.ts';
import { TrainingModel } from './training-model.ts';

const fixture = archFixture('llama3');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const BUDGETS = { save: 1e9, recompute: 1 };

const unembedSpec = loraSpec({ rank: 8, trainUnembed: true });

function finish<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

function initialAdapter(variant: string, spec = loraSpec()): LoraAdapter {
  const file = fixture.lora(variant);
  return LoraAdapter.from(base, spec, ({ path }) => ({
    a: file.readFloat32Sync(`init.${path}.lora_A.weight`),
    b: file.readFloat32Sync(`init.${path}.lora_B.weight`),
  }));
}

function model(
  variant: string,
  spec: ReturnType<typeof loraSpec>,
  activationBudgetBytes = BUDGETS.save,
): TrainingModel {
  return new TrainingModel(
    'llama3',
    new Trainer(base, { activationBudgetBytes }),
    initialAdapter(variant, spec),
  );
}

const request = (data: EngineDatum[], forwardOnly = false) => ({
  modelId: 'm',
  data,
  lossFn: 'cross_entropy',
  lossFnConfig: {},
  forwardOnly,
});

test('one call, calls per datum, and passes cut small give the same gradient', () => {
  const norms = [
    [fixture.data, BUDGETS.save],
    [fixture.data, BUDGETS.recompute],
  ].map(([data, budget]) => {
    const trained = model('r8_unembed', unembedSpec, budget as number);
    finish(trained.forwardBackward(request(data as EngineDatum[])));
    return trained.optimStep({ learningRate: 0, beta1: 0, beta2: 0, eps: 1, weightDecay: 0, gradClipNorm: 0 })
      .metrics['grad_norm:l2']!;
  });
  const trained = model('r8_unembed', unembedSpec);
  for (const datum of fixture.data) finish(trained.forwardBackward(request([datum])));
  norms.push(
    trained.optimStep({ learningRate: 0, beta1: 0, beta2: 0, eps: 1, weightDecay: 0, gradClipNorm: 0 })
      .metrics['grad_norm:l2']!,
  );
  for (const norm of norms) expect(Math.abs(norm - norms[0]!) / norms[0]!).toBeLessThan(1e-5);
});

test('a forward-only call gives the same logprobs and no gradient', () => {
  const trainer = new Trainer(base, { activationBudgetBytes: BUDGETS.save });
  const adapter = initialAdapter('r4');
  const forward = finish(trainer.steps(adapter, request(fixture.data, true)));
  const both = finish(trainer.steps(adapter, request(fixture.data)));
  expect(forward.grads).toBeUndefined();
  forward.outputs.forEach(({ logprobs }, i) => {
    expect(
      maxDifference(logprobs!.data as Float32Array, both.outputs[i]!.logprobs!.data as Float32Array),
    ).toBeLessThan(1e-5);
  });
});

test('a refused call names datum and value, and leaves the gradient as it was', () => {
  const trained = model('r4', loraSpec());
  finish(trained.forwardBackward(request(fixture.data)));
  const bad = structuredClone(fixture.data);
  bad[1]!.inputs.weights!.data[3] = Number.NaN;
  expect(() => finish(trained.forwardBackward(request(bad)))).toThrow(EngineError);
  const norm = trained.optimStep({
    learningRate: 0,
    beta1: 0,
    beta2: 0,
    eps: 1,
    weightDecay: 0,
    gradClipNorm: 0,
  }).metrics['grad_norm:l2']!;
  expect(Math.abs(norm - fixture.reference.lora.r4!.grad_norm[0]!) / norm).toBeLessThan(1e-4);
});

test('steps leave no tensors behind', () => {
  const trained = model('r8_unembed', unembedSpec);
  const step = () => {
    finish(trained.forwardBackward(request(fixture.data)));
    finish(trained.forwardBackward(request(fixture.data, true)));
    trained.optimStep({
      learningRate: 1e-3,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-12,
      weightDecay: 0,
      gradClipNorm: 0,
    });
  };
  step();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 10; i++) step();
  expect(tf.memory().numTensors).toBe(before);
});
