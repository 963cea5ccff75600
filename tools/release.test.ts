/** Tries the next release on a copy of the manifests: every changeset names a package that exists, and versions fit together. */
import { spawnSync } from 'node:child_process';
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const ROOT = dirname(import.meta.dirname);
const copy = mkdtempSync(join(tmpdir(), 'anneal-release-'));
const manifests = globSync(['packages/*/package.json', 'apps/*/package.json'], { cwd: ROOT });

afterAll(() => rmSync(copy, { recursive: true, force: true }));

interface Manifest {
  name: string;
  version: string;
  private?: boolean;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}

const read = (root: string, path: string): Manifest => JSON.parse(readFileSync(join(root, path), 'utf8'));

function run(command: string, args: string[]): void {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: copy, encoding: 'utf8' });
  expect(status, `${command} ${args.join(' ')}: ${stdout}${stderr}`).toBe(0);
}

test('the next release can be versioned, and its packages ask for each other as they are', () => {
  for (const path of ['.changeset', 'package.json', 'package-lock.json', ...manifests]) {
    cpSync(join(ROOT, path), join(copy, path), { recursive: true });
  }
  // Changesets asks git where the repository is.
  run('git', ['init', '-q']);
  const waiting = globSync('.changeset/*.md', { cwd: copy }).filter((path) => !path.endsWith('README.md'));
  run(join(ROOT, 'node_modules', '.bin', 'changeset'), ['version']);

  const after = manifests.map((path) => read(copy, path));
  const versions = new Map(after.map(({ name, version }) => [name, version]));
  for (const { name, dependencies, devDependencies } of after) {
    for (const [needed, range] of Object.entries({ ...dependencies, ...devDependencies })) {
      if (versions.has(needed)) expect(range, `${name} asks for ${needed}`).toBe(versions.get(needed));
    }
  }
  const left = globSync('.changeset/*.md', { cwd: copy }).filter((path) => !path.endsWith('README.md'));
  expect(left).toEqual([]);
  const changelogs = globSync(['packages/*/CHANGELOG.md', 'apps/*/CHANGELOG.md'], { cwd: copy });
  if (waiting.length > 0) expect(changelogs).not.toEqual([]);
});
