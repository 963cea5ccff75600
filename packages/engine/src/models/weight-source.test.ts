import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openSafetensors, writeSafetensors } from '@anneal/safetensors';
import { deviceDtype, SCALE_BYTES, type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, expect, test } from 'vitest';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { BaseModel } from './base-model.ts';
import { weightMemory } from './checkpoint-folder.ts';
import type { Precision } from './weight-source.ts';

const root = mkdtempSync(path.join(tmpdir(), 'anneal-weights-'));
afterAll(() => rmSync(root, { recursive: true }));

/** TensorFlow's numbers of types. */
const [FLOAT, INT8, BFLOAT16] = [1, 6, 14];

/** What a tensor takes on the device, by its type there. */
function deviceBytes(tensor: Tensor): number {
  const width = tensor.shape.at(-1) ?? 1;
  switch (deviceDtype(tensor)) {
    case FLOAT:
      return 4 * tensor.size;
    case BFLOAT16:
      return 2 * tensor.size;
    case INT8:
      return (tensor.size / width) * (width + SCALE_BYTES);
    default:
      throw new Error(`a weight of type ${deviceDtype(tensor)}`);
  }
}

const FAMILIES = ['llama3', 'qwen3', 'gemma3', 'qwen3_moe', 'gpt_oss', 'deepseek_v3'];

test.each(FAMILIES)('the memory of %s is known before it is loaded', (family) => {
  const { modelDir } = archFixture(family);
  const told = weightMemory(modelDir);
  for (const precision of ['auto', 'fp32', 'bf16', 'int8'] as Precision[]) {
    const base = BaseModel.load(modelDir, precision);
    const { embed, head, finalNorm, layers } = base;
    const weights = new Set([embed, head, finalNorm, ...layers.flatMap((layer) => Object.values(layer))]);
    const taken = [...weights].reduce((sum, weight) => sum + deviceBytes(weight), 0);
    expect([precision, base.weightBytes]).toEqual([precision, taken]);
    expect([precision, told[precision]]).toEqual([precision, taken]);
    base.dispose();
  }
});

test('weights that are not finite are refused by name in every precision, and leave nothing behind', async () => {
  const { modelDir } = archFixture('llama3');
  const folder = path.join(root, 'broken');
  cpSync(modelDir, folder, { recursive: true });
  const name = 'model.layers.1.mlp.up_proj.weight';
  using file = openSafetensors(path.join(modelDir, 'model.safetensors'));
  const tensors = file.tensors.map(({ name: own, dtype, shape }) => {
    const data = file.readSync(own);
    if (own === name) data.set([0xc0, 0x7f], 2 * 70);
    return { name: own, dtype, shape, data };
  });
  await writeSafetensors(path.join(folder, 'model.safetensors'), tensors);
  const before = tf.memory().numTensors;
  for (const precision of ['auto', 'fp32', 'bf16', 'int8'] as Precision[])
    expect(() => BaseModel.load(folder, precision)).toThrow(
      `"${name}" of the checkpoint holds NaN at element 70`,
    );
  expect(tf.memory().numTensors).toBe(before);
});
