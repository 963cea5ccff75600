import { homedir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { annealCacheDir } from './cache-dir.ts';

test('ANNEAL_CACHE_DIR comes before XDG_CACHE_HOME, and that before the home folder', () => {
  expect(annealCacheDir({ ANNEAL_CACHE_DIR: '/a', XDG_CACHE_HOME: '/x' })).toBe('/a');
  expect(annealCacheDir({ XDG_CACHE_HOME: '/x' })).toBe('/x/anneal');
  expect(annealCacheDir({})).toBe(path.join(homedir(), '.cache', 'anneal'));
});

test('a relative XDG_CACHE_HOME is ignored, a relative ANNEAL_CACHE_DIR is resolved', () => {
  expect(annealCacheDir({ XDG_CACHE_HOME: 'x' })).toBe(path.join(homedir(), '.cache', 'anneal'));
  expect(annealCacheDir({ ANNEAL_CACHE_DIR: 'a' })).toBe(path.resolve('a'));
});
