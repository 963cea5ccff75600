import { expect, test } from 'vitest';
import { z } from 'zod';
import { CliError } from '../errors.ts';
import { type Layers, resolveConfig } from './resolve.ts';

const Sample = z.strictObject({
  port: z.int().min(0).max(65_535).default(8123).describe('Port'),
  dataDir: z.string().default('./data'),
  precision: z.enum(['fp32', 'bf16']).default('fp32'),
  model: z.array(z.string()).default(['small']),
  alias: z.record(z.string(), z.string()).default({}),
  docs: z.boolean().default(true),
  apiKey: z.string().startsWith('tml-').optional().meta({ secret: true }),
});

const none: Layers = { flags: {}, env: {} };
const file = (content: Record<string, unknown>) => ({ path: 'anneal.config.json', content });

function messageOf(layers: Layers): string {
  try {
    resolveConfig(Sample, layers);
  } catch (error) {
    if (error instanceof CliError) return error.message;
  }
  throw new Error('expected the configuration to be refused');
}

test('defaults apply where nothing is given', () => {
  const { config, sources } = resolveConfig(Sample, none);
  expect(config).toEqual({
    port: 8123,
    dataDir: './data',
    precision: 'fp32',
    model: ['small'],
    alias: {},
    docs: true,
  });
  expect(new Set(Object.values(sources))).toEqual(new Set(['default']));
});

test('a flag wins over the environment, which wins over the file', () => {
  const layers = {
    flags: { port: '1' },
    env: { ANNEAL_PORT: '2', ANNEAL_DATA_DIR: '/env' },
    file: file({ port: 3, dataDir: '/file', precision: 'bf16' }),
  };
  const { config, sources } = resolveConfig(Sample, layers);
  expect(config).toMatchObject({ port: 1, dataDir: '/env', precision: 'bf16' });
  expect(sources).toMatchObject({ port: 'flag', dataDir: 'env', precision: 'file', model: 'default' });
});

test('lists and maps are repeatable flags and comma-separated variables', () => {
  const flags = { model: ['a', 'b'], alias: ['x=a', 'org/y=/dir=1'] };
  expect(resolveConfig(Sample, { ...none, flags }).config).toMatchObject({
    model: ['a', 'b'],
    alias: { x: 'a', 'org/y': '/dir=1' },
  });
  const env = { ANNEAL_MODEL: 'a, b', ANNEAL_ALIAS: 'x=a,y=b', ANNEAL_DOCS: 'off' };
  expect(resolveConfig(Sample, { ...none, env }).config).toMatchObject({
    model: ['a', 'b'],
    alias: { x: 'a', y: 'b' },
    docs: false,
  });
});

test('an empty variable counts as absent', () => {
  expect(resolveConfig(Sample, { ...none, env: { ANNEAL_PORT: '' } }).config.port).toBe(8123);
});

test('a wrong value is named as the user gave it, with what is allowed', () => {
  expect(messageOf({ ...none, env: { ANNEAL_PORT: '70000' } })).toMatch(
    /^ANNEAL_PORT: .*; allowed: 0 to 65535; got 70000$/,
  );
  expect(messageOf({ ...none, flags: { port: 'abc' } })).toMatch(/^--port: .*; got "abc"$/);
  expect(messageOf({ ...none, file: file({ precision: 'fp8' }) })).toMatch(
    /^precision in anneal\.config\.json: .*; allowed: fp32 or bf16; got "fp8"$/,
  );
  expect(messageOf({ ...none, flags: { alias: ['x'] } })).toBe('--alias: expected NAME=VALUE, got "x"');
});

test('all wrong values are told together', () => {
  const message = messageOf({ ...none, env: { ANNEAL_PORT: '-1', ANNEAL_PRECISION: 'int8' } });
  expect(message.split('\n')).toHaveLength(2);
});

test('a wrong secret is not repeated', () => {
  const message = messageOf({ ...none, env: { ANNEAL_API_KEY: 'sk-very-private' } });
  expect(message).toContain('ANNEAL_API_KEY');
  expect(message).not.toContain('very-private');
});

test('an unknown key of the file is refused', () => {
  expect(messageOf({ ...none, file: file({ prot: 1 }) })).toContain('unknown key "prot"');
});
