import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = dirname(import.meta.dirname);
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const documents = globSync(['*.md', 'docs/*.md', 'packages/*/README.md', 'apps/*/README.md'], { cwd: ROOT });

test('docs/errors.md has a section for every error code, with its status and category', () => {
  const table = [
    ...read('apps/server/src/errors.ts').matchAll(/^ {2}(\w+): \{ status: (\d+), category: '(\w+)' \}/gm),
  ];
  expect(table.length).toBeGreaterThan(5);
  const expected = table.map(([, code, status, category]) => `## ${code}\n\n${status}, ${category}.`);
  const found = [...read('docs/errors.md').matchAll(/^## \w+\n\n\d+, \w+\./gm)].map(String);
  expect(found).toEqual(expected);
});

test.each(documents)('%s links only to files that exist', (document) => {
  const links = [...read(document).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map(
    (match) => match[1] ?? '',
  );
  const broken = links.filter((link) => !existsSync(join(ROOT, dirname(document), link)));
  expect(broken).toEqual([]);
});

test('the README shows every package and app in its tree', () => {
  const folders = globSync(['packages/*', 'apps/*'], { cwd: ROOT }).map((folder) => `${folder}/`);
  const readme = read('README.md');
  expect(folders.filter((folder) => !readme.includes(folder.split('/')[1] ?? folder))).toEqual([]);
});
