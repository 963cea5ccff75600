/** Every family against torch: one run of these tests per folder of fixtures/arch. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import { readAdapter, writeCheckpoint } from '../checkpoints/checkpoint-files.ts';
import type { EngineDatum } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { Sampler } from '../sampling/sampler.ts';
import { archFixture, fixturePath, loraSpec, maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { logitsOf } from '../training/head.ts';
import { HeadPass } from '../training/head-pass.ts';
import { Trainer } from '../training/trainer.ts';
import { TrainingModel } from '../training/training-model.ts';
import { BaseModel } from './base-model.ts';

/** What the fixtures grant an fp32 engine; gradients relative to the tensor's largest entry. */
const USUAL = { logits: 2e-4, logprobs: 1e-4, loss: 1e-6, gradient: 1e-4, after: 2e-5 };
/** The delta rule is touchier than attention, in torch's float32 too. */
const WITH_DELTA_RULE = { logits: 2e-3, logprobs: 1e-3, loss: 5e-6, gradient: 1e-3, after: 2e-4 };
/**
 * Of the tensor's largest gradient. Below that float32 has an entry's sign by chance, on some processors one and on some the other, and
 * the sign alone is what Adam's first step takes.
 */
const CHANCE = 1e-6;

/** Of the fixtures' training. */
const [STEPS, LEARNING_RATE] = [3, 1e-3];

const families = readdirSync(fixturePath('arch'));

function finish<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

const relative = (value: number, want: number) => Math.abs(value - want) / Math.abs(want);

/** Compiled, because weights may be in bfloat16, which only compiled functions read. */
const headLogits = compile('test_logits', ({ h, head }: { h: Tensor; head: Tensor }) => ({
  logits: logitsOf(h, head, undefined),
}));

describe.each(families)('%s', (family) => {
  const fixture = archFixture(family);
  const base = BaseModel.load(fixture.modelDir, 'auto');
  const hasState = base.cacheShapes().some((shape) => 'state' in shape);
  const TOLERANCE = hasState ? WITH_DELTA_RULE : USUAL;
  const variants = Object.keys(fixture.reference.lora);
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const request = (data: EngineDatum[]) => ({
    modelId: 'm',
    data,
    lossFn: 'cross_entropy',
    lossFnConfig: {},
    forwardOnly: false,
  });
  const idsOf = (tokens: number[]) => tf.tensor2d(tokens, [1, tokens.length], 'int32');

  function initialAdapter(variant: string): LoraAdapter {
    const { rank, alpha, adapters, options } = fixture.reference.lora[variant]!;
    const file = fixture.lora(variant);
    const trainUnembed = adapters.some(({ key }) => key === 'lm_head');
    const splitFused = adapters.some(({ key }) => key.endsWith('.in_proj_q'));
    const spec = loraSpec({ rank, alpha, trainUnembed, shareExperts: options?.shared, splitFused });
    const adapter = LoraAdapter.from(base, spec, (module) => ({
      a: file.readFloat32Sync(`init.${module.path}.lora_A.weight`),
      b: file.readFloat32Sync(`init.${module.path}.lora_B.weight`),
    }));
    const adapted = adapter.modules().map(({ module }) => module.path);
    expect(adapted.sort()).toEqual(adapters.map(({ key }) => key).sort());
    return adapter;
  }

  /** Compares tensors in parameter order with `KIND.path.lora_X.weight` of the fixture. */
  function compare(
    kind: string,
    variant: string,
    adapter: LoraAdapter,
    tensors: Tensor[],
    tolerance: (want: Float32Array, path: string) => number,
    skipped: (name: string) => number[] = () => [],
  ): void {
    const file = fixture.lora(variant);
    const paths = adapter.modules().flatMap(({ module: { path } }) => [path, path]);
    paths.forEach((path, i) => {
      const name = `${path}.lora_${i % 2 === 0 ? 'A' : 'B'}.weight`;
      const [got, want] = [tensors[i]!.dataSync(), file.readFloat32Sync(`${kind}.${name}`)];
      for (const at of skipped(name)) got[at] = want[at]!;
      expect(maxDifference(got, want), name).toBeLessThan(tolerance(want, path));
    });
  }

  /** Entries whose first Adam step may go either way. */
  function signedByChance(variant: string, name: string): number[] {
    const gradients = fixture.lora(variant).readFloat32Sync(`grad.${name}`);
    const noise = CHANCE * maxAbs(gradients);
    return [...gradients.keys()].filter((i) => gradients[i] !== 0 && Math.abs(gradients[i]!) < noise);
  }

  afterAll(() => {
    trainer.dispose();
    base.dispose();
  });

  test('every layer of a sequence', () => {
    const ids = idsOf(fixture.reference.sequences[0]!.tokens);
    let layers = 0;
    trainer.stack.forward(ids, undefined, undefined, (layer, x) => {
      const want = fixture.tensors.readFloat32Sync(`hidden.${layer}`);
      expect(maxDifference(x.dataSync(), want)).toBeLessThan(TOLERANCE.logits);
      layers++;
    });
    expect(layers).toBe(base.config.numLayers);
  });

  test.each([0, 1, 2])('logits and logprobs of sequence %i', (i) => {
    const x = trainer.stack.forward(idsOf(fixture.reference.sequences[i]!.tokens), undefined);
    const h = base.architecture.finalNorm(base.config, tf.squeeze(x, [0]), base.finalNorm);
    const logits = headLogits({ h, head: base.head }).logits.dataSync();
    expect(maxDifference(logits, fixture.tensors.readFloat32Sync(`logits.${i}`))).toBeLessThan(
      TOLERANCE.logits,
    );
    const [logprobs] = finish(trainer.logprobs(undefined, [fixture.data[i]!]));
    expect(maxDifference(logprobs!, fixture.tensors.readFloat32Sync(`logprobs.${i}`))).toBeLessThan(
      TOLERANCE.logprobs,
    );
  });

  test.each(
    variants.flatMap((variant) => [
      { variant, activations: 'kept', budget: 1e9 },
      { variant, activations: 'computed again', budget: 1 },
    ]),
  )('logprobs, loss and gradients of $variant, activations $activations', ({ variant, budget }) => {
    const adapter = initialAdapter(variant);
    const passes = new Trainer(base, { activationBudgetBytes: budget });
    const { outputs, metrics, grads } = finish(passes.steps(adapter, request(fixture.data)));
    outputs.forEach(({ logprobs }, i) => {
      const want = fixture.lora(variant).readFloat32Sync(`logprobs.${i}`);
      expect(maxDifference(logprobs!.data as Float32Array, want)).toBeLessThan(TOLERANCE.logprobs);
    });
    const { loss } = fixture.reference.lora[variant]!;
    expect(relative(metrics['loss:sum']!, loss[0]!)).toBeLessThan(TOLERANCE.loss);
    compare('grad', variant, adapter, grads!, (want) => TOLERANCE.gradient * maxAbs(want));
  });

  test.each(variants)('three clipped AdamW steps of %s', (variant) => {
    const trained = new TrainingModel(family, trainer, initialAdapter(variant));
    const { loss, grad_norm: norms } = fixture.reference.lora[variant]!;
    for (let step = 0; step < STEPS; step++) {
      const { metrics } = finish(trained.forwardBackward(request(fixture.data)));
      expect(relative(metrics['loss:sum']!, loss[step]!)).toBeLessThan(5 * TOLERANCE.loss);
      const taken = trained.optimStep({
        learningRate: LEARNING_RATE,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-12,
        weightDecay: 0.1,
        gradClipNorm: 1,
      });
      expect(relative(taken.metrics['grad_norm:l2']!, norms[step]!)).toBeLessThan(TOLERANCE.gradient);
    }
    // Where Adam's first step goes by chance, the other factor of the module sees another one from the second step on.
    const chance = (name: string) => signedByChance(variant, name);
    const tolerance = (_want: Float32Array, path: string) =>
      ['A', 'B'].some((factor) => chance(`${path}.lora_${factor}.weight`).length > 0)
        ? 5 * TOLERANCE.after
        : TOLERANCE.after;
    compare('after', variant, trained.adapter, trained.adapter.parameters(), tolerance, chance);
  });

  test.each(variants)('an adapter of %s comes back from its checkpoint', async (variant) => {
    const adapter = initialAdapter(variant);
    const dir = mkdtempSync(path.join(tmpdir(), 'anneal-family-'));
    try {
      await writeCheckpoint(dir, family, adapter);
      const restored = readAdapter(dir, base, adapter.spec);
      compare('init', variant, restored, restored.parameters(), () => 1e-12);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  const newSampler = (pieceTokens: number) =>
    new Sampler(base, new HeadPass(base), {
      maxSlots: 4,
      pieceTokens,
      kvBudgetBytes: 1e9,
      prefillTokens: 256,
      xla: false,
      tokenizer: () => {
        throw new Error('no stop strings here');
      },
    });

  /** Greedy tokens of each adapter (undefined: the base model), decoded in one batch. */
  async function decode(
    prompt: number[],
    maxTokens: number,
    adapters: (LoraAdapter | undefined)[],
    pieceTokens = 512,
  ) {
    const sampler = newSampler(pieceTokens);
    const results = adapters.map((adapter) =>
      sampler.submit(
        {
          samplerId: 's',
          prompt: Int32Array.from(prompt),
          numSamples: 1,
          params: { maxTokens, temperature: 0, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } },
          promptLogprobs: false,
          topkPromptLogprobs: 0,
          topkSampleLogprobs: 0,
          promptAltTokensK: 0,
        },
        adapter,
      ),
    );
    while (sampler.hasWork) sampler.work();
    return (await Promise.all(results)).map(({ sequences }) => sequences[0]!);
  }

  test.each([512, 3])('greedy decoding with the cache, the prompt in pieces of %i', async (pieceTokens) => {
    const { prompt, tokens } = fixture.reference.greedy;
    const [decoded] = await decode(prompt, tokens.length, [undefined], pieceTokens);
    expect([...decoded!.tokens]).toEqual(tokens);
  });

  test('decoded logprobs equal a forward pass over the same tokens, with adapters side by side', async () => {
    const { prompt } = fixture.reference.greedy;
    const adapters = [undefined, ...variants.map(initialAdapter)];
    const decoded = await decode(prompt, 40, adapters);
    decoded.forEach(({ tokens, logprobs }, i) => {
      const all = Int32Array.from([...prompt, ...tokens]);
      const datum: EngineDatum = {
        tokens: all.subarray(0, -1),
        inputs: {
          target_tokens: { dtype: 'int32', shape: [all.length - 1], data: all.subarray(1) },
        },
      };
      const [scored] = finish(trainer.logprobs(adapters[i], [datum]));
      const difference = maxDifference(logprobs, scored!.subarray(prompt.length - 1));
      expect(difference).toBeLessThan(TOLERANCE.logprobs);
    });
  });
});
