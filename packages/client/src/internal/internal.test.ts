import { readFileSync } from 'node:fs';
import { Datum, ModelInput, TensorData } from '@anneal/types';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { foldResults } from './fold-results.ts';
import { stringifyLossless, stringifyWithoutNulls } from './json.ts';
import { ByteBudget, Semaphore } from './semaphore.ts';
import { datumBytes, splitBatch } from './split-batch.ts';
import { Turns } from './turns.ts';

const fixture = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../fixtures/${name}.json`, import.meta.url), 'utf8'));

interface Fold {
  parts: { count: number; metrics: Record<string, number> }[];
  metrics: Record<string, number>;
}

test.each(fixture('folds') as Fold[])('metrics fold as in the Python SDK (case %#)', ({ parts, metrics }) => {
  const results = parts.map(({ count, metrics }) => ({
    loss_fn_output_type: 'T',
    loss_fn_outputs: Array.from({ length: count }, () => ({})),
    metrics,
  }));
  const folded = foldResults(results).metrics;
  expect(Object.keys(folded).sort()).toEqual(Object.keys(metrics).sort());
  for (const [key, value] of Object.entries(metrics)) expect(folded[key], key).toBeCloseTo(value, 9);
});

test('bytes of a datum are estimated as in the Python SDK', () => {
  const sparse = TensorData.parse({
    data: [7, 8],
    dtype: 'int64',
    shape: [2, 4],
    sparse_crow_indices: [0, 1, 2],
    sparse_col_indices: [2, 0],
  });
  const datums = [
    Datum.from({
      model_input: ModelInput.fromInts([1, 2, 3]),
      loss_fn_inputs: { target_tokens: [1, 2, 3], weights: [1, 0, 1] },
    }),
    Datum.from({ model_input: ModelInput.fromInts([1, 2]), loss_fn_inputs: { target_tokens: sparse } }),
  ];
  expect(datums.map(datumBytes)).toEqual(fixture('datum_bytes'));
});

test('parts keep the order and the limits; only a datum over the limit goes beyond it, alone', () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(sizes, fc.integer({ min: 1, max: 8 }), (lengths, maxCount) => {
      const data = lengths.map((length) =>
        Datum.from({ model_input: ModelInput.fromInts(Array(length).fill(1)), loss_fn_inputs: {} }),
      );
      const parts = splitBatch(data, { fwdbwd_max_chunk_len: maxCount, fwdbwd_max_chunk_bytes_count: 100 });
      expect(parts.flatMap((part) => part.data)).toEqual(data);
      for (const part of parts) {
        expect(part.data.length).toBeLessThanOrEqual(maxCount);
        if (part.data.length > 1) expect(part.bytes).toBeLessThanOrEqual(100);
      }
    }),
  );
});

test('JSON keeps every digit of a bigint and escapes whatever looks like one', () => {
  expect(stringifyLossless({ a: 2n ** 64n - 1n, b: [-5n], c: 1.5 })).toBe(
    '{"a":18446744073709551615,"b":[-5],"c":1.5}',
  );
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      expect(JSON.parse(stringifyLossless({ value, big: 1n }))).toEqual(
        JSON.parse(JSON.stringify({ value, big: 1 })),
      );
    }),
  );
});

test('fields that are null or absent are not sent, at any depth; zeros and empty lists are', () => {
  const request = { a: null, b: undefined, c: 0, d: '', e: [], f: { g: null, h: [{ i: null, j: false }] } };
  expect(stringifyWithoutNulls(request)).toBe('{"c":0,"d":"","e":[],"f":{"h":[{"j":false}]}}');
});

test('a semaphore admits as many as it has room for, in the order in which they came', async () => {
  const gate = new Semaphore(2);
  const log: number[] = [];
  let inside = 0;
  let most = 0;
  const work = (index: number) =>
    gate.use(1, undefined, async () => {
      log.push(index);
      most = Math.max(most, ++inside);
      await Promise.resolve();
      inside--;
    });
  await Promise.all(Array.from({ length: 20 }, (_, index) => work(index)));
  expect(log).toEqual(Array.from({ length: 20 }, (_, index) => index));
  expect(most).toBe(2);
});

test('a waiter that gives up leaves its place to the next', async () => {
  const gate = new Semaphore(1);
  const release = await gate.acquire(1);
  const controller = new AbortController();
  const quitter = gate.acquire(1, controller.signal);
  const next = gate.acquire(1);
  controller.abort(new Error('tired'));
  await expect(quitter).rejects.toThrow('tired');
  release();
  release();
  (await next)();
  await gate.acquire(1);
});

test('a byte budget lets one item pass that is larger than itself, then waits until it is back', async () => {
  const budget = new ByteBudget(10);
  const large = await budget.acquire(1000);
  let entered = false;
  const small = budget.acquire(1).then((release) => {
    entered = true;
    return release;
  });
  await Promise.resolve();
  expect(entered).toBe(false);
  large();
  (await small)();
});

test('turns run one after the other, in the order in which they were taken, whatever fails', async () => {
  const turns = new Turns();
  const log: string[] = [];
  const first = turns.take(1, async ([id]) => {
    await new Promise((resolve) => setTimeout(resolve, 10));
    log.push(`first ${id}`);
    throw new Error('refused');
  });
  const second = turns.take(2, async (ids) => log.push(`second ${ids}`));
  const third = turns.take(1, async (ids) => log.push(`third ${ids}`));
  await expect(first).rejects.toThrow('refused');
  await Promise.all([second, third]);
  expect(log).toEqual(['first 1', 'second 2,3', 'third 4']);
});

test('a broken order refuses what waits and what comes', async () => {
  const turns = new Turns();
  const submit = vi.fn(async () => undefined);
  const waiting = turns.take(1, submit);
  turns.break(new Error('cause'));
  await expect(waiting).rejects.toThrow('no more requests');
  expect(() => turns.take(1, submit)).toThrow('no more requests');
  expect(submit).not.toHaveBeenCalled();
});
