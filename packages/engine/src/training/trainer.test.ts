/** What the trainer itself promises; its numbers are compared for every family in models/families.test.ts. */
import { tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import { type EngineDatum, EngineError } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { Trainer, type TrainerResult } from './trainer.ts';
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

test('calls of several adapters in one pass give what each gives alone, whatever their ranks and modules', () => {
  const trainer = new Trainer(base, { activationBudgetBytes: BUDGETS.save });
  const adapters = [
    initialAdapter('r4'),
    initialAdapter('r8_unembed', unembedSpec),
    LoraAdapter.create(base, { ...loraSpec(), rank: 2, seed: 5n, trainMlp: false }),
  ];
  for (const adapter of adapters.slice(2))
    adapter.replaceParameters(adapter.parameters().map((p, i) => tf.add(tf.clone(p), 0.01 * ((i % 3) + 1))));
  for (const lossFn of ['cross_entropy', 'importance_sampling']) {
    const data = fixture.data.map((datum) =>
      lossFn === 'cross_entropy' ? datum : { ...datum, inputs: policyInputs(datum) },
    );
    const calls = [0, 1, 2, 0].map((which, i) => ({
      adapter: adapters[which]!,
      request: { ...request([data[i % 3]!, data[(i + 1) % 3]!]), lossFn },
    }));
    const alone = calls.map((call) => finish(trainer.steps(call.adapter, call.request)));
    const together = finish(trainer.stepsTogether(calls));
    together.forEach((result, i) => {
      if (result instanceof Error) throw result;
      expect(Math.abs(result.metrics['loss:sum']! - alone[i]!.metrics['loss:sum']!)).toBeLessThan(1e-3);
      result.outputs.forEach(({ logprobs }, datum) => {
        const want = alone[i]!.outputs[datum]!.logprobs!.data as Float32Array;
        expect(maxDifference(logprobs!.data as Float32Array, want)).toBeLessThan(1e-4);
      });
    });
    // The two calls of the first adapter share one gradient.
    const wanted = [
      alone[0]!.grads!.map((grad, i) => tf.add(grad, alone[3]!.grads![i]!)),
      alone[1]!.grads!,
      alone[2]!.grads!,
    ];
    wanted.forEach((grads, i) => {
      const result = together[i] as TrainerResult;
      expect(result.grads).toHaveLength(grads.length);
      grads.forEach((grad, j) => {
        const want = grad.dataSync() as Float32Array;
        const got = result.grads![j]!;
        expect(got.shape).toEqual(grad.shape);
        expect(maxDifference(got.dataSync() as Float32Array, want)).toBeLessThan(1e-4 * maxAbs(want) + 1e-7);
      });
    });
    expect((together[3] as TrainerResult).grads).toBeUndefined();
  }
});

test('a call that fails leaves those beside it as they are alone, and nothing behind', () => {
  const trainer = new Trainer(base, { activationBudgetBytes: BUDGETS.save });
  const adapters = [initialAdapter('r4'), initialAdapter('r4')];
  const broken = { ...fixture.data[0]!, tokens: Int32Array.from([1, 999_999]) };
  const infinite = {
    ...fixture.data[0]!,
    inputs: { ...policyInputs(fixture.data[0]!), logprobs: minusLarge(fixture.data[0]!) },
  };
  const policy = (data: EngineDatum[]) => ({ ...request(data), lossFn: 'importance_sampling' });
  const good = { ...fixture.data[1]!, inputs: policyInputs(fixture.data[1]!) };
  const run = (bad: EngineDatum) => {
    const results = finish(
      trainer.stepsTogether([
        { adapter: adapters[0]!, request: policy([bad]) },
        { adapter: adapters[1]!, request: policy([good]) },
      ]),
    );
    const alone = finish(trainer.steps(adapters[1]!, policy([good])));
    expect(results[0]).toBeInstanceOf(EngineError);
    const result = results[1] as TrainerResult;
    expect(result.metrics).toEqual(alone.metrics);
    tf.dispose([...result.grads!, ...alone.grads!]);
  };
  for (const bad of [broken, infinite]) run(bad);
  const before = tf.memory().numTensors;
  for (const bad of [broken, infinite]) run(bad);
  expect(tf.memory().numTensors).toBe(before);
});

/** Inputs of a policy loss, made by rule. */
function policyInputs({ tokens, inputs }: EngineDatum): EngineDatum['inputs'] {
  const column = (value: (i: number) => number) => ({
    dtype: 'float32' as const,
    shape: [tokens.length],
    data: Float32Array.from(tokens, (_, i) => value(i)),
  });
  return {
    target_tokens: inputs.target_tokens!,
    logprobs: column((i) => -5 - (i % 4) / 4),
    advantages: column((i) => Math.sin(i)),
  };
}

/** Old logprobs so low that the ratio overflows. */
function minusLarge({ tokens }: EngineDatum) {
  return {
    dtype: 'float32' as const,
    shape: [tokens.length],
    data: new Float32Array(tokens.length).fill(-1e4),
  };
}
