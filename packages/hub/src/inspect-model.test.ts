import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { writeSafetensors } from '@anneal/safetensors';
import { afterAll, expect, test } from 'vitest';
import { inspectModel } from './index.ts';

const LLAMA = path.join(import.meta.dirname, '../../engine/fixtures/arch/llama3/model');
const scratch = mkdtempSync(path.join(tmpdir(), 'inspect-'));
afterAll(() => rmSync(scratch, { recursive: true }));

test('describes a Llama checkpoint', async () => {
  const [hidden, ffn, kv, vocab, layers] = [64, 128, 32, 368, 3];
  const layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden;
  const parameters = layers * layer + hidden + 2 * vocab * hidden;
  expect(await inspectModel(LLAMA)).toEqual({
    folder: LLAMA,
    modelType: 'llama',
    architecture: 'LlamaForCausalLM',
    parameters,
    layers,
    hiddenSize: hidden,
    vocabSize: vocab,
    contextLength: 512,
    tiedEmbeddings: false,
    tensorCounts: { BF16: 9 * layers + 3 },
    storedBytes: 2 * parameters,
    hasChatTemplate: true,
  });
});

test('reads the text section of a model of several parts', async () => {
  const config = {
    model_type: 'qwen3_vl',
    text_config: { hidden_size: 8, num_hidden_layers: 2, vocab_size: 5 },
  };
  writeFileSync(path.join(scratch, 'config.json'), JSON.stringify(config));
  const tensor = { name: 'model.embed', dtype: 'F32', shape: [5, 8], data: new Float32Array(40) } as const;
  await writeSafetensors(path.join(scratch, 'model.safetensors'), [tensor]);
  const found = await inspectModel(scratch);
  expect(found).toMatchObject({
    hiddenSize: 8,
    layers: 2,
    vocabSize: 5,
    parameters: 40,
    tiedEmbeddings: true,
  });
  expect(found).toMatchObject({ hasChatTemplate: false, contextLength: undefined, storedBytes: 160 });
});

test('names the file that is wrong', async () => {
  writeFileSync(path.join(scratch, 'config.json'), '{"model_type": 3}');
  await expect(inspectModel(scratch)).rejects.toThrow(/config\.json.*\n.*model_type/);
});
