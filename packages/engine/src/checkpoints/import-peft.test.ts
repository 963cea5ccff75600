/** Adapters that PEFT wrote (fixtures/make_peft_adapters.py), and what it says that the adapted model computes. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openSafetensors, writeSafetensors } from '@anneal/safetensors';
import { afterAll, beforeEach, expect, test } from 'vitest';
import type { LoraSpec } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { archFixture, fixturePath, loraSpec, maxDifference, readJson } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { BaseModel } from '../models/base-model.ts';
import { Trainer } from '../training/trainer.ts';
import { TrainingModel } from '../training/training-model.ts';
import { readAdapter, readCheckpointInfo, writeCheckpoint } from './checkpoint-files.ts';
import { importPeft } from './import-peft.ts';
import { writePeftFiles } from './peft-files.ts';

const TOLERANCE = 1e-4;

const fixture = archFixture('llama3');
const base = { name: 'tiny', folder: fixture.modelDir };
const wanted = readJson<Record<string, number[]>>(fixturePath('peft', 'logprobs.json'));
const root = mkdtempSync(path.join(tmpdir(), 'anneal-import-'));
const model = BaseModel.load(base.folder, 'fp32');
const trainer = new Trainer(model, { activationBudgetBytes: 1e9 });

let to: string;
beforeEach(() => {
  to = mkdtempSync(path.join(root, 'to-'));
});
afterAll(() => {
  model.dispose();
  rmSync(root, { recursive: true });
});

async function logprobsOf(dir: string): Promise<ArrayLike<number>> {
  const adapter = readAdapter(dir, model, readCheckpointInfo(dir).lora);
  const training = new TrainingModel('tiny', trainer, adapter);
  const steps = training.forwardBackward({
    modelId: 'm',
    data: fixture.data.slice(0, 1),
    lossFn: 'cross_entropy',
    lossFnConfig: {},
    forwardOnly: true,
  });
  for (;;) {
    const { done, value } = steps.next();
    if (!done) continue;
    training.dispose();
    return value.outputs[0]!.logprobs!.data as Float32Array;
  }
}

/** A copy of a fixture with changes. */
async function changed(
  name: string,
  config: object,
  rename: (tensor: string) => string | undefined = (tensor) => tensor,
): Promise<string> {
  const dir = mkdtempSync(path.join(root, 'from-'));
  cpSync(fixturePath('peft', name), dir, { recursive: true });
  const configFile = path.join(dir, 'adapter_config.json');
  writeFileSync(configFile, JSON.stringify({ ...readJson<object>(configFile), ...config }));
  const reader = openSafetensors(fixturePath('peft', name, 'adapter_model.safetensors'));
  const tensors = reader.tensors.flatMap(({ name: tensor, dtype, shape }) => {
    const renamed = rename(tensor);
    return renamed ? [{ name: renamed, dtype, shape, data: reader.readSync(tensor) }] : [];
  });
  await writeSafetensors(path.join(dir, 'adapter_model.safetensors'), tensors);
  reader.close();
  return dir;
}

test.each(['qv_rslora', 'head'])(
  '%s computes what PEFT computes, also for modules that were added',
  async (name) => {
    const imported = await importPeft(fixturePath('peft', name), to, base);
    expect(maxDifference(await logprobsOf(to), wanted[name]!)).toBeLessThan(TOLERANCE);
    const others = { qv_rslora: ['k_proj', 'o_proj'], head: ['gate_proj', 'up_proj'] }[name]!;
    expect(new Set(imported.added.map((module) => module.split('.').at(-1)))).toEqual(new Set(others));
    const config = readJson<{ target_modules: string[] }>(path.join(to, 'adapter_config.json'));
    expect(config.target_modules).toEqual(expect.arrayContaining(others));
  },
);

test('what was added can be trained: its A is that of a fresh adapter, its B is zero', async () => {
  await importPeft(fixturePath('peft', 'qv_rslora'), to, base);
  const reader = openSafetensors(path.join(to, 'adapter_model.safetensors'));
  const at = 'base_model.model.model.layers.1.self_attn.k_proj';
  const a = reader.readFloat32Sync(`${at}.lora_A.weight`);
  expect(Math.max(...a.map(Math.abs))).toBeGreaterThan(0.9 / Math.sqrt(64));
  expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(1 / Math.sqrt(64));
  expect(reader.readFloat32Sync(`${at}.lora_B.weight`).every((value) => value === 0)).toBe(true);
  reader.close();
});

test('rank-stabilised scaling becomes the alpha that equals it', async () => {
  const { lora } = await importPeft(fixturePath('peft', 'qv_rslora'), to, base);
  expect(lora).toMatchObject({ rank: 4, alpha: 12, trainAttn: true, trainMlp: false, trainUnembed: false });
});

test('the head has the name that exports give it', async () => {
  const from = await changed('head', {}, (tensor) =>
    tensor.includes('base_layer') ? undefined : tensor.replace('lm_head', 'model.unembed_tokens'),
  );
  await importPeft(from, to, base);
  expect(maxDifference(await logprobsOf(to), wanted.head!)).toBeLessThan(TOLERANCE);
});

test.each([
  ['first_layers', /layers\.0\..* but not .*layers\.2\./],
  ['dora', /use_dora: DoRA/],
  ['rank_pattern', /rank_pattern: it must be empty/],
  ['alpha_pattern', /alpha_pattern: it must be empty/],
  ['norms_saved', /modules_to_save: whole modules/],
  ['biases', /bias: only "none"/],
  ['lora_biases', /lora_bias: it cannot be imported/],
  ['embedding', /embed_tokens\.lora_embedding_A" cannot be imported/],
  ['pissa', /init_lora_weights: "pissa"/],
])('%s is refused by name', async (name, message) => {
  await expect(importPeft(fixturePath('peft', name), to, base)).rejects.toMatchObject({
    name: 'EngineError',
    category: 'user',
    message: expect.stringMatching(message),
  });
});

test('an adapter of another model, a wrong rank, a missing half and a changed head are refused', async () => {
  const other = { name: 'other', folder: archFixture('qwen3').modelDir };
  await expect(importPeft(fixturePath('peft', 'head'), to, other)).rejects.toThrow(/shape|differs/);
  const wrongRank = await changed('qv_rslora', { r: 8 });
  await expect(importPeft(wrongRank, to, base)).rejects.toThrow(/has shape \[4, 64\].* needs \[8, 64\]/);
  const half = await changed('qv_rslora', {}, (name) =>
    name.includes('2.self_attn.v_proj.lora_B') ? undefined : name,
  );
  await expect(importPeft(half, to, base)).rejects.toThrow(/v_proj\.lora_B\.weight" is missing/);
  const elsewhere = await changed('qv_rslora', {}, (name) => name.replace('self_attn', 'attn'));
  await expect(importPeft(elsewhere, to, base)).rejects.toThrow(/"base_model.*attn.q_proj.*LoRA can be on/);
});

test('a checkpoint of ours comes back to the bit', async () => {
  await importPeft(fixturePath('peft', 'qv_rslora'), to, base);
  const again = mkdtempSync(path.join(root, 'again-'));
  await importPeft(to, again, base);
  const file = 'adapter_model.safetensors';
  expect(readFileSync(path.join(again, file)).equals(readFileSync(path.join(to, file)))).toBe(true);
});

const expertFamilies = ['qwen3_moe', 'gpt_oss', 'deepseek_v3', 'qwen3_5_moe'];
const exported = expertFamilies.flatMap((family) =>
  Object.keys(archFixture(family).reference.lora).map((variant) => [family, variant] as const),
);

/** A fixture's adapter, with a B that is not zero, as a checkpoint of ours. */
async function checkpointOf(family: string, variant: string): Promise<{ dir: string; spec: LoraSpec }> {
  const { reference, modelDir, lora } = archFixture(family);
  const { rank, alpha, adapters, options } = reference.lora[variant]!;
  const file = lora(variant);
  const spec = loraSpec({
    rank,
    alpha,
    trainUnembed: adapters.some(({ key }) => key === 'lm_head'),
    ...(options?.shared ? { shareExperts: true } : {}),
    ...(adapters.some(({ key }) => key.endsWith('.in_proj_q')) ? { splitFused: true } : {}),
  });
  const dir = mkdtempSync(path.join(root, 'experts-'));
  const adapter = LoraAdapter.from(BaseModel.open(modelDir, 'fp32'), spec, ({ path: module }) => ({
    a: file.readFloat32Sync(`init.${module}.lora_A.weight`),
    b: file.readFloat32Sync(`grad.${module}.lora_B.weight`),
  }));
  await writeCheckpoint(dir, 'tiny', adapter);
  adapter.dispose();
  return { dir, spec };
}

test.each(exported)('what an export of %s has (%s) is imported to the bit', async (family, variant) => {
  const { dir, spec } = await checkpointOf(family, variant);
  const files = mkdtempSync(path.join(root, 'export-'));
  await writePeftFiles(dir, files);
  const { lora, added } = await importPeft(files, to, { name: 'tiny', folder: archFixture(family).modelDir });
  expect({ ...lora, seed: undefined }).toEqual({ ...spec, seed: undefined });
  expect(added).toEqual([]);
  const bytes = (folder: string) => readFileSync(path.join(folder, 'adapter_model.safetensors'));
  expect(bytes(to).equals(bytes(dir))).toBe(true);
});
