/** What Qwen3.5's fixtures do not vary: how experts are stored, where names begin, and what config.json may not ask for. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openSafetensors, type TensorToWrite, writeSafetensors } from '@anneal/safetensors';
import { expect, test } from 'vitest';
import { archFixture, readJson } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { BaseModel } from './base-model.ts';
import { findArchitecture } from './registry.ts';

type Json = Record<string, unknown>;
const modelDir = (family: string) => archFixture(family).modelDir;
const configOf = (family: string) => readJson<Json>(path.join(modelDir(family), 'config.json'));
const parse = (json: Json) => findArchitecture(json).parseConfig(json);
const withText = (json: Json, changes: Json) => ({
  ...json,
  text_config: { ...(json.text_config as Json), ...changes },
});

/** The fixture with a tensor for each map of each expert, as transformers writes it. */
async function separated(dir: string): Promise<void> {
  const from = modelDir('qwen3_5_moe');
  const reader = openSafetensors(from);
  const tensors = reader.tensors.flatMap(({ name, dtype, shape }): TensorToWrite[] => {
    const [at, map] = name.split('.experts.');
    const bytes = reader.readSync(name);
    if (!map) return [{ name, dtype, shape: [...shape], data: () => bytes }];
    const [experts, rows, columns] = shape as [number, number, number];
    const maps = map === 'gate_up_proj' ? ['gate_proj', 'up_proj'] : ['down_proj'];
    const size = bytes.byteLength / experts / maps.length;
    return Array.from({ length: experts * maps.length }, (_, i) => ({
      name: `${at}.experts.${Math.floor(i / maps.length)}.${maps[i % maps.length]}.weight`,
      dtype,
      shape: [rows / maps.length, columns],
      data: () => bytes.subarray(i * size, (i + 1) * size),
    }));
  });
  await writeSafetensors(path.join(dir, 'model.safetensors'), tensors);
  reader.close();
  copyFileSync(path.join(from, 'config.json'), path.join(dir, 'config.json'));
}

test('experts stored one by one are those that are stored together', async () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'anneal-experts-'));
  try {
    await separated(dir);
    const [together, apart] = [modelDir('qwen3_5_moe'), dir].map((folder) => BaseModel.load(folder, 'fp32'));
    together!.layers.forEach((weights, layer) => {
      for (const key of ['w1', 'w2', 'w3']) {
        expect(apart!.layers[layer]![key]!.shape).toEqual(weights[key]!.shape);
        expect(apart!.layers[layer]![key]!.dataSync()).toEqual(weights[key]!.dataSync());
      }
    });
    together!.dispose();
    apart!.dispose();
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a text-only config.json has its fields at the top, and names without the part', () => {
  const json = configOf('qwen3_5');
  const text = json.text_config as Json;
  const architecture = findArchitecture(text);
  expect(architecture.outerTensors(architecture.parseConfig(text)).embed).toBe('model.embed_tokens.weight');
});

test('layers are counted where config.json does not list them', () => {
  const json = withText(configOf('qwen3_5'), {
    layer_types: undefined,
    full_attention_interval: 2,
  });
  expect(parse(json)).toMatchObject({ attends: [false, true, false, true] });
});

test.each([
  ['qwen3_5', { attention_bias: true }],
  ['qwen3_5', { attn_output_gate: false }],
  ['qwen3_5', { hidden_act: 'gelu' }],
  ['qwen3_5', { layer_types: ['full_attention'] }],
  ['qwen3_5', { linear_num_value_heads: 3 }],
  ['qwen3_5', { linear_conv_kernel_dim: 1 }],
  ['qwen3_5', { mamba_ssm_dtype: 'bfloat16' }],
  ['qwen3_5', { rope_parameters: { rope_theta: 1e4, mrope_interleaved: false } }],
  ['qwen3_5_moe', { norm_topk_prob: false }],
  ['qwen3_5_moe', { num_experts_per_tok: 7 }],
  ['qwen3_5_moe', { mlp_only_layers: [1] }],
])('%s refuses %j by its name', (family, changes) => {
  const [field] = Object.keys(changes);
  expect(() => parse(withText(configOf(family), changes))).toThrow(field);
});
