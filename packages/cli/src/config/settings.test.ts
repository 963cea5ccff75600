import { expect, test } from 'vitest';
import { z } from 'zod';
import { settingsOf } from './settings.ts';

test('names of flags and variables follow from the key', () => {
  const schema = z.object({
    dataDir: z.string(),
    s3Bucket: z.string(),
    bodyLimitMiB: z.int(),
    apiKey: z.string(),
  });
  expect(settingsOf(schema).map(({ flag, env }) => [flag, env])).toEqual([
    ['--data-dir', 'ANNEAL_DATA_DIR'],
    ['--s3-bucket', 'ANNEAL_S3_BUCKET'],
    ['--body-limit-mib', 'ANNEAL_BODY_LIMIT_MIB'],
    ['--api-key', 'ANNEAL_API_KEY'],
  ]);
});

test('kind, range, default and secrecy are read from the schema', () => {
  const schema = z.object({
    port: z.int().min(0).max(9).default(3).describe('Port'),
    mode: z.enum(['a', 'b']),
    names: z.array(z.string()),
    pairs: z.record(z.string(), z.string()),
    on: z.boolean().default(true),
    key: z.string().optional().meta({ secret: true }),
  });
  expect(settingsOf(schema)).toMatchObject([
    { kind: 'number', allowed: '0 to 9', default: 3, description: 'Port', secret: false },
    { kind: 'text', allowed: 'a or b' },
    { kind: 'list' },
    { kind: 'map' },
    { kind: 'boolean', default: true },
    { kind: 'text', secret: true },
  ]);
});
