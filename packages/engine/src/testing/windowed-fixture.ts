import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import { archFixture, readJson } from './fixtures.ts';

/** Llama's fixture as a Mistral that sees six positions; gone after the tests of the file that asks for it. */
export function windowedFixture(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'anneal-mistral-'));
  cpSync(archFixture('llama3').modelDir, folder, { recursive: true });
  const file = path.join(folder, 'config.json');
  const config = readJson<Record<string, unknown>>(file);
  writeFileSync(file, JSON.stringify({ ...config, model_type: 'mistral', sliding_window: 6 }));
  afterAll(() => rmSync(folder, { recursive: true }));
  return folder;
}
