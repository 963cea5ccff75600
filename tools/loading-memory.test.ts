/** Loading takes little more memory than the weights: measured in a process of its own, by what Linux saw it hold at most. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { tensorsOf } from './make-random-checkpoint.ts';

const ROOT = path.dirname(import.meta.dirname);
const PROGRAM = path.join(ROOT, 'packages/engine/src/testing/loading-peak.ts');
const folder = mkdtempSync(path.join(tmpdir(), 'anneal-loading-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A third of a billion parameters, so that what Node.js itself takes weighs little; the file has no blocks on the disk, and so reads as zeros. */
function writeZeros(): void {
  const fixture = path.join(ROOT, 'packages/engine/fixtures/arch/llama3/model/config.json');
  const size = { vocab_size: 100_000, hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 18 };
  const config = { ...JSON.parse(readFileSync(fixture, 'utf8')), ...size, tie_word_embeddings: true };
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  let end = 0;
  const header = tensorsOf(config).map(({ name, shape }) => {
    const begin = end;
    end += 2 * shape.reduce((product, dim) => product * dim, 1);
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }];
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = path.join(folder, 'model.safetensors');
  writeFileSync(file, Buffer.concat([length, json]));
  truncateSync(file, length.length + json.length + end);
}

describe.skipIf(process.platform !== 'linux')('peak memory while loading', () => {
  writeZeros();
  test.each(['auto', 'int8'])('%s', { timeout: 120_000 }, (precision) => {
    const flags = ['--conditions=@anneal/source', '--disable-warning=ExperimentalWarning'];
    const { stdout, stderr } = spawnSync(process.execPath, [...flags, PROGRAM, folder, precision], {
      encoding: 'utf8',
    });
    expect(stdout, stderr).toMatch(/^{.*}\n$/);
    const { peak, weights } = JSON.parse(stdout);
    expect(weights).toBeGreaterThan(300e6);
    expect(peak / weights).toBeGreaterThan(0.9);
    expect(peak / weights).toBeLessThan(1.1);
  });
});
