/** There is no checkpoint of this family in fixtures/arch; it is Llama's layer, so Llama's fixture serves. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { tf } from '@anneal/tensorflow';
import { afterAll, expect, test } from 'vitest';
import { archFixture, maxDifference, readJson } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { LayerStack } from '../training/layer-stack.ts';
import { BaseModel } from './base-model.ts';

const fixture = archFixture('llama3');
const { tokens } = fixture.reference.sequences[2]!;
const folder = mkdtempSync(path.join(tmpdir(), 'anneal-mistral-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Output of a layer for the longest sequence, with these fields in config.json; a row per position. */
function hiddenStates(fields: Record<string, unknown>, layer: number): Float32Array[] {
  const json = readJson<Record<string, unknown>>(path.join(fixture.modelDir, 'config.json'));
  cpSync(fixture.modelDir, folder, { recursive: true });
  writeFileSync(
    path.join(folder, 'config.json'),
    JSON.stringify({ ...json, model_type: 'mistral', ...fields }),
  );
  const base = BaseModel.load(folder, 'fp32');
  const { hiddenSize } = base.config;
  let rows: Float32Array[] = [];
  new LayerStack(base).forward(
    tf.tensor2d(tokens, [1, tokens.length], 'int32'),
    undefined,
    undefined,
    (at, x) => {
      const values = x.dataSync() as Float32Array;
      if (at === layer) rows = tokens.map((_, i) => values.slice(i * hiddenSize, (i + 1) * hiddenSize));
    },
  );
  return rows;
}

test('without a window it computes what Llama computes', () => {
  const base = BaseModel.load(fixture.modelDir, 'fp32');
  const x = new LayerStack(base).forward(tf.tensor2d(tokens, [1, tokens.length], 'int32'), undefined);
  const rows = hiddenStates({ sliding_window: null }, base.config.numLayers - 1);
  expect(
    maxDifference(
      rows.flatMap((row) => [...row]),
      x.dataSync(),
    ),
  ).toBeLessThan(1e-6);
});

test('with a window, the first positions stay and the first one outside it changes', () => {
  const all = hiddenStates({ sliding_window: null }, 0);
  const windowed = hiddenStates({ sliding_window: 8 }, 0);
  const differences = all.map((row, i) => maxDifference(row, windowed[i]!));
  expect(Math.max(...differences.slice(0, 8))).toBeLessThan(1e-6);
  expect(Math.min(...differences.slice(8))).toBeGreaterThan(1e-5);
});

test('a file that names no window means 4096', () => {
  hiddenStates({ sliding_window: undefined }, 0);
  expect(BaseModel.load(folder, 'fp32').attention.map(({ window }) => window)).toContain(4096);
});
