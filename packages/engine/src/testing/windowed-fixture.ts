import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { archFixture, readJson } from './fixtures.ts';

/**
 * Llama's fixture as a Mistral that sees six positions.
 * @param afterwards Is given what removes it, as vitest's `afterAll`
 */
export function windowedFixture(afterwards: (remove: () => void) => void): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'anneal-mistral-'));
  cpSync(archFixture('llama3').modelDir, folder, { recursive: true });
  const file = path.join(folder, 'config.json');
  const config = readJson<Record<string, unknown>>(file);
  writeFileSync(file, JSON.stringify({ ...config, model_type: 'mistral', sliding_window: 6 }));
  afterwards(() => rmSync(folder, { recursive: true }));
  return folder;
}
