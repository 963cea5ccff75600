import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { configurationTable } from './document.ts';
import { ServeConfig } from './serve-config.ts';
import { settingsOf } from './settings.ts';

const document = new URL('../../../../docs/configuration.md', import.meta.url);
const [start, end] = ['<!-- settings: start -->', '<!-- settings: end -->'];

/** `UPDATE_DOCS=1 npx vitest run packages/cli` writes the table anew. */
test('docs/configuration.md lists every setting as it is', () => {
  const text = readFileSync(document, 'utf8');
  const [before = '', rest = ''] = text.split(start);
  const [, after = ''] = rest.split(end);
  const expected = `${before}${start}\n${configurationTable(settingsOf(ServeConfig))}\n${end}${after}`;
  if (process.env.UPDATE_DOCS) writeFileSync(document, expected);
  else expect(text).toBe(expected);
});

test('every setting says what it does', () => {
  for (const { key, description } of settingsOf(ServeConfig)) expect(description, key).not.toBe('');
});
