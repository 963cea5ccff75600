import { expect, test } from 'vitest';
import * as z from 'zod';
import { ServerConfig } from '../src/index.ts';

const models = [{ name: 'tiny', folder: '/models/tiny' }];

test('every setting says what it does, and all but the models have a default or may be absent', () => {
  for (const [key, setting] of Object.entries(ServerConfig.shape)) {
    expect(setting.description, key).toEqual(expect.stringMatching(/.{10}/));
    if (key !== 'models') expect(z.safeParse(setting, undefined).success, key).toBe(true);
  }
});

test('a wrong value is named with what is allowed', () => {
  const problems = (input: object) =>
    ServerConfig.safeParse({ models, ...input }).error?.issues.map((issue) => [
      issue.path.join('.'),
      issue.message,
    ]);
  expect(problems({ port: 70_000 })).toEqual([['port', expect.stringContaining('65535')]]);
  expect(problems({ precision: 'fp8' })).toEqual([['precision', expect.stringContaining('bf16')]]);
  expect(problems({ apiKey: 'sk-123456789' })).toEqual([['apiKey', expect.stringContaining('tml-')]]);
  expect(problems({ databaseUrl: 'mysql://x' })).toEqual([
    ['databaseUrl', expect.stringContaining('postgres://')],
  ]);
  expect(problems({ unknown: 1 })).toEqual([['', expect.stringContaining('unknown')]]);
  expect(problems({ models: [] })).toEqual([['models', expect.any(String)]]);
});

test('secrets are marked, so that nobody prints them', () => {
  const secret = Object.entries(ServerConfig.shape)
    .filter(([, setting]) => setting.meta()?.secret === true)
    .map(([key]) => key);
  expect(secret.sort()).toEqual(['apiKey', 'databaseUrl', 'metricsKey']);
});
