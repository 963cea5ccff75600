/** SmolLM2-135M-Instruct against torch and transformers: greedy text, logprobs, and a whole fine-tune. */
import { resolveModel } from '@anneal/hub';
import { openSafetensors } from '@anneal/safetensors';
import { afterAll, expect, test } from 'vitest';
import type { EngineDatum, SampleRequest } from '../src/engine.ts';
import { LoraAdapter } from '../src/lora/adapter.ts';
import { BaseModel } from '../src/models/base-model.ts';
import { Sampler } from '../src/sampling/sampler.ts';
import {
  crossEntropyDatum,
  fixturePath,
  loraSpec,
  maxDifference,
  readJson,
} from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';
import { Trainer } from '../src/training/trainer.ts';
import { TrainingModel } from '../src/training/training-model.ts';

interface TextFixture {
  greedy: { prompt_ids: number[]; ids: number[]; logprobs: number[] }[];
  paragraph: { ids: number[]; logprobs: (number | null)[] };
}
interface Row {
  tokens: number[];
  targets: number[];
  weights: number[];
}
interface CurveFixture {
  setup: {
    rank: number;
    alpha: number;
    lr: number;
    weight_decay: number;
    grad_clip_norm: number;
    batch: number;
    steps: number;
    beta1: number;
    beta2: number;
    eps: number;
  };
  curve: { train_loss_sum: number[]; eval_mean_nll: Record<string, number> };
  train: Row[];
  eval: Row[];
}

const { folder } = await resolveModel('HuggingFaceTB/SmolLM2-135M-Instruct');
const base = BaseModel.load(folder, 'auto');
const trainer = new Trainer(base, { activationBudgetBytes: 1.5e9 });
const sampler = new Sampler(base, trainer.head, {
  maxSlots: 8,
  kvBudgetBytes: 1e9,
  prefillTokens: 512,
  xla: false,
  tokenizer: () => {
    throw new Error('no stop strings here');
  },
});
const text = readJson<TextFixture>(fixturePath('smollm2_text.json'));
afterAll(() => base.dispose());

const greedyRequest = (prompt: number[], maxTokens: number, promptLogprobs = false): SampleRequest => ({
  samplerId: 'base',
  prompt: Int32Array.from(prompt),
  numSamples: 1,
  params: { maxTokens, temperature: 0, topK: -1, topP: 1 },
  promptLogprobs,
  topkPromptLogprobs: 0,
  topkSampleLogprobs: 0,
  promptAltTokensK: 0,
});

async function sampleAll(requests: SampleRequest[]) {
  const results = requests.map((request) => sampler.submit(request, undefined));
  while (sampler.hasWork) sampler.work();
  return Promise.all(results);
}

function finish<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

test('greedy continuations equal transformers token by token, with their logprobs', async () => {
  const results = await sampleAll(
    text.greedy.map(({ prompt_ids, ids }) => greedyRequest(prompt_ids, ids.length)),
  );
  results.forEach(({ sequences: [sequence] }, i) => {
    const want = text.greedy[i]!;
    expect([...sequence!.tokens]).toEqual(want.ids);
    expect(maxDifference(sequence!.logprobs, want.logprobs)).toBeLessThan(1e-3);
  });
});

test("a paragraph's logprobs equal transformers", async () => {
  const { ids, logprobs } = text.paragraph;
  const [result] = await sampleAll([greedyRequest(ids, 1, true)]);
  const scored = [...result!.promptLogprobs!].slice(-logprobs.length);
  const known = logprobs.flatMap((want, i) => (want === null ? [] : [[want, scored[i]!] as const]));
  expect(
    maxDifference(
      known.map(([want]) => want),
      known.map(([, got]) => got),
    ),
  ).toBeLessThan(1e-3);
});

test('a 40-step fine-tune follows the curve of torch and peft', () => {
  const { setup, curve, train, eval: held } = readJson<CurveFixture>(fixturePath('smollm2_sft_curve.json'));
  const init = openSafetensors(fixturePath('smollm2_lora_init.safetensors'));
  const spec = loraSpec({ rank: setup.rank, alpha: setup.alpha });
  const adapter = LoraAdapter.from(base, spec, ({ path, outFeatures }) => ({
    a: init.readFloat32Sync(`${path}.lora_A.weight`),
    b: new Float32Array(outFeatures * setup.rank),
  }));
  const model = new TrainingModel('smollm2', trainer, adapter);
  const run = (rows: Row[], forwardOnly: boolean) => {
    const data: EngineDatum[] = rows.map(crossEntropyDatum);
    return finish(
      model.forwardBackward({ modelId: 'm', data, lossFn: 'cross_entropy', lossFnConfig: {}, forwardOnly }),
    ).metrics['loss:sum']!;
  };
  const heldWeight = held.flatMap(({ weights }) => weights).reduce((a, b) => a + b);
  const check = (step: number) => {
    const want = curve.eval_mean_nll[step];
    if (want !== undefined)
      expect(Math.abs(run(held, true) / heldWeight - want), `evaluation after step ${step}`).toBeLessThan(
        0.02,
      );
  };
  for (let step = 0; step < setup.steps; step++) {
    check(step);
    const loss = run(train.slice(step * setup.batch, (step + 1) * setup.batch), false);
    const want = curve.train_loss_sum[step]!;
    expect(Math.abs(loss - want) / want, `training loss of step ${step}`).toBeLessThan(0.01);
    model.optimStep({
      learningRate: setup.lr,
      beta1: setup.beta1,
      beta2: setup.beta2,
      eps: setup.eps,
      weightDecay: setup.weight_decay,
      gradClipNorm: setup.grad_clip_norm,
    });
  }
  check(setup.steps);
}, 900_000);
