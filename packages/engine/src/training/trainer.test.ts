import { type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import { type EngineDatum, EngineError } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { Trainer } from './trainer.ts';
import { TrainingModel } from './training-model.ts';

const fixture = archFixture('llama3');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const BUDGETS = { save: 1e9, recompute: 1 };

const variants = [
  { variant: 'r4', spec: loraSpec() },
  { variant: 'r8_unembed', spec: loraSpec({ rank: 8, trainUnembed: true }) },
];

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

/** Compares tensors in parameter order with `KIND.path.lora_X.weight` of the fixture. */
function compare(
  kind: string,
  variant: string,
  adapter: LoraAdapter,
  tensors: Tensor[],
  tolerance: (want: Float32Array) => number,
): void {
  const file = fixture.lora(variant);
  adapter.modules().forEach(({ module }, i) => {
    for (const [part, tensor] of [
      ['lora_A', tensors[2 * i]!],
      ['lora_B', tensors[2 * i + 1]!],
    ] as const) {
      const want = file.readFloat32Sync(`${kind}.${module.path}.${part}.weight`);
      expect(maxDifference(tensor.dataSync(), want), `${module.path}.${part}`).toBeLessThan(tolerance(want));
    }
  });
}

test.each(variants.flatMap((v) => (['save', 'recompute'] as const).map((policy) => ({ ...v, policy }))))(
  'logprobs, loss and gradients of $variant equal torch (activations: $policy)',
  ({ variant, spec, policy }) => {
    const adapter = initialAdapter(variant, spec);
    const trainer = new Trainer(base, { activationBudgetBytes: BUDGETS[policy] });
    const { outputs, metrics, grads } = finish(trainer.steps(adapter, request(fixture.data)));
    outputs.forEach(({ logprobs }, i) => {
      expect(
        maxDifference(logprobs!.data as Float32Array, fixture.lora(variant).readFloat32Sync(`logprobs.${i}`)),
      ).toBeLessThan(1e-4);
    });
    const want = fixture.reference.lora[variant]!.loss[0]!;
    expect(Math.abs(metrics['loss:sum']! - want) / want).toBeLessThan(1e-6);
    compare('grad', variant, adapter, grads!, (reference) => 1e-4 * maxAbs(reference));
  },
);

test.each(variants)('three clipped AdamW steps of $variant equal torch', ({ variant, spec }) => {
  const trained = model(variant, spec);
  const { loss, grad_norm: norms } = fixture.reference.lora[variant]!;
  for (let step = 0; step < 3; step++) {
    const { metrics } = finish(trained.forwardBackward(request(fixture.data)));
    expect(Math.abs(metrics['loss:sum']! - loss[step]!) / loss[step]!).toBeLessThan(5e-6);
    const hyper = {
      learningRate: 1e-3,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-12,
      weightDecay: 0.1,
      gradClipNorm: 1,
    };
    const taken = trained.optimStep(hyper);
    expect(Math.abs(taken.metrics['grad_norm:l2']! - norms[step]!) / norms[step]!).toBeLessThan(1e-4);
  }
  compare('after', variant, trained.adapter, trained.adapter.parameters(), () => 2e-5);
});

test('one call, calls per datum, and passes cut small give the same gradient', () => {
  const { variant, spec } = variants[1]!;
  const norms = [
    [fixture.data, BUDGETS.save],
    [fixture.data, BUDGETS.recompute],
  ].map(([data, budget]) => {
    const trained = model(variant, spec, budget as number);
    finish(trained.forwardBackward(request(data as EngineDatum[])));
    return trained.optimStep({ learningRate: 0, beta1: 0, beta2: 0, eps: 1, weightDecay: 0, gradClipNorm: 0 })
      .metrics['grad_norm:l2']!;
  });
  const trained = model(variant, spec);
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
  const trained = model('r8_unembed', variants[1]!.spec);
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
