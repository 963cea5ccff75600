import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const LOSSES = 'packages/engine/src/losses';

/** A folder with nothing but the registry of losses. */
function emptyCheckout(): string {
  const root = mkdtempSync(join(tmpdir(), 'anneal-new-loss-'));
  mkdirSync(join(root, LOSSES), { recursive: true });
  copyFileSync(join(import.meta.dirname, '..', LOSSES, 'registry.ts'), join(root, LOSSES, 'registry.ts'));
  return root;
}

function newLoss(root: string, name: string): string {
  const script = join(import.meta.dirname, 'new-loss.mjs');
  return execFileSync(process.execPath, [script, name, '--root', root], { encoding: 'utf8', stdio: 'pipe' });
}

test('a loss, its test and one line in the registry, in under 60 lines', () => {
  const root = emptyCheckout();
  const read = (file: string) => readFileSync(join(root, LOSSES, file), 'utf8');
  const before = read('registry.ts');
  expect(newLoss(root, 'focal_ce')).toContain('focal-ce.ts');

  const [loss, test] = [read('focal-ce.ts'), read('focal-ce.test.ts')];
  expect(loss).toContain("name: 'focal_ce'");
  expect(test).toContain("import { focalCe } from './focal-ce.ts'");
  expect(`${loss}${test}`.split('\n').length).toBeLessThan(60);

  const added = read('registry.ts').replace("import { focalCe } from './focal-ce.ts';\n", '');
  expect(added).not.toBe(read('registry.ts'));
  expect(added.replace(/,\s*focalCe/, '').replace(/\s/g, '')).toBe(before.replace(/\s/g, ''));
  expect(read('registry.ts')).toMatch(/from '\.\/dro\.ts';\nimport \{ focalCe \}/);
});

test('nothing is overwritten', () => {
  const root = emptyCheckout();
  newLoss(root, 'mine');
  expect(() => newLoss(root, 'mine')).toThrow(/mine\.ts is there already/);
});

test.each(['My-Loss', '../up', 'a__b', ''])('the name "%s" is refused', (name) => {
  const root = emptyCheckout();
  expect(() => newLoss(root, name)).toThrow(/usage/);
  expect(existsSync(join(root, LOSSES, `${name}.ts`))).toBe(false);
});
