/** Checkpoints of gpt-oss come with experts in MXFP4, which the family's fixture has, or in bfloat16. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  float32ToBfloat16,
  openSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from '@anneal/safetensors';
import { tf } from '@anneal/tensorflow';
import { afterAll, expect, test } from 'vitest';
import { archFixture, maxDifference, readJson } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { logitsOf } from '../training/head.ts';
import { LayerStack } from '../training/layer-stack.ts';
import { BaseModel } from './base-model.ts';

const fixture = archFixture('gpt_oss');
const folder = mkdtempSync(path.join(tmpdir(), 'anneal-gpt-oss-'));
afterAll(() => rmSync(folder, { recursive: true }));

const MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The value at [expert, row, column], by the format's definition. */
function dequantised(blocks: Uint8Array, scales: Uint8Array, index: number): number {
  const byte = blocks[index >> 1]!;
  const code = index % 2 === 0 ? byte & 15 : byte >> 4;
  return (code & 8 ? -1 : 1) * MAGNITUDES[code & 7]! * 2 ** (scales[index >> 5]! - 127);
}

async function writeWidened(): Promise<void> {
  cpSync(fixture.modelDir, folder, { recursive: true });
  const { quantization_config: _, ...config } = readJson<Record<string, unknown>>(
    path.join(fixture.modelDir, 'config.json'),
  );
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  const reader = openSafetensors(fixture.modelDir);
  const tensors = reader.tensors.flatMap(({ name, dtype, shape }): TensorToWrite[] => {
    if (name.endsWith('_scales')) return [];
    if (!name.endsWith('_blocks'))
      return [{ name, dtype, shape: [...shape], data: () => reader.readSync(name) }];
    const [experts, rows, perRow] = shape as [number, number, number, number];
    const columns = perRow * 32;
    const blocks = reader.readSync(name);
    const scales = reader.readSync(name.replace('_blocks', '_scales'));
    const values = new Float32Array(experts * rows * columns);
    for (let e = 0; e < experts; e++)
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < columns; c++)
          values[(e * columns + c) * rows + r] = dequantised(blocks, scales, (e * rows + r) * columns + c);
    const data = () => new Uint8Array(float32ToBfloat16(values).buffer);
    return [{ name: name.replace('_blocks', ''), dtype: 'BF16', shape: [experts, columns, rows], data }];
  });
  await writeSafetensors(path.join(folder, 'model.safetensors'), tensors);
}

test('experts in bfloat16 give the same logits', async () => {
  await writeWidened();
  const base = BaseModel.load(folder, 'fp32');
  const { tokens } = fixture.reference.sequences[2]!;
  const x = new LayerStack(base).forward(tf.tensor2d(tokens, [1, tokens.length], 'int32'), undefined);
  const h = base.architecture.finalNorm(base.config, tf.squeeze(x, [0]), base.finalNorm);
  const logits = logitsOf(h, base.head, undefined).dataSync();
  expect(maxDifference(logits, fixture.tensors.readFloat32Sync('logits.2'))).toBeLessThan(2e-4);
});

test('another quantization is refused by name', () => {
  const config = readJson<Record<string, unknown>>(path.join(fixture.modelDir, 'config.json'));
  const json = { ...config, quantization_config: { quant_method: 'fp8' } };
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(json));
  expect(() => BaseModel.load(folder, 'fp32')).toThrow(/quant_method.*fp8.*mxfp4/);
});
