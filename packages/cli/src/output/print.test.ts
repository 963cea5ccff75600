import { expect, test } from 'vitest';
import { bytes, facts, table } from './print.ts';

test('columns line up', () => {
  expect(
    table(
      ['name', 'size'],
      [
        ['a', '1'],
        ['longer', '22'],
      ],
    ),
  ).toBe('name    size\na       1\nlonger  22');
  expect(table(['name'], [], 'No models.')).toBe('No models.');
});

test('facts leave out what is unknown', () => {
  expect(
    facts([
      ['rank', 8],
      ['seed', undefined],
      ['model', 'tiny'],
    ]),
  ).toBe('rank   8\nmodel  tiny');
});

test('sizes are in decimal units', () => {
  expect([0, 999, 1000, 269_060_552, 5e12].map(bytes)).toEqual([
    '0 B',
    '999 B',
    '1.0 kB',
    '269.1 MB',
    '5.0 TB',
  ]);
});
