import fc from 'fast-check';
import { expect, test } from 'vitest';
import { APIConnectionError, APIStatusError, APITimeoutError, RequestFailedError } from './errors.ts';
import { backoffMs, DEFAULT_RETRY, delayAfter, isRetryable, retryAfterMs } from './retry.ts';

const answer = (status: number, headers: Record<string, string> = {}) =>
  APIStatusError.from('GET /x', { status, headers: new Headers(headers), body: 'text' });

test('delays double, stay within the jitter, and end at the longest', () => {
  fc.assert(
    fc.property(fc.nat(100), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, random) => {
      const delay = backoffMs(attempt, DEFAULT_RETRY, () => random);
      const middle = Math.min(500 * 2 ** Math.min(attempt, 20), 30_000);
      expect(delay).toBeGreaterThanOrEqual(middle * 0.75);
      expect(delay).toBeLessThanOrEqual(Math.min(middle * 1.25, 30_000));
    }),
  );
});

test.each([
  [{ 'retry-after-ms': '1500' }, 1500],
  [{ 'retry-after': '2' }, 2000],
  [{ 'retry-after': '0.5' }, 500],
  [{ 'retry-after': new Date(10_000).toUTCString() }, 10_000],
  [{ 'retry-after-ms': '5', 'retry-after': '9' }, 5],
  [{ 'retry-after': '61' }, undefined],
  [{ 'retry-after': '-1' }, undefined],
  [{ 'retry-after': 'soon' }, undefined],
  [{}, undefined],
])('%o asks to wait %s ms', (headers, expected) => {
  expect(retryAfterMs(new Headers(headers), 0)).toBe(expected);
});

test('the server decides how long to wait', () => {
  expect(delayAfter(answer(429, { 'retry-after': '3' }), 0, DEFAULT_RETRY)).toBe(3000);
});

test.each([408, 409, 429, 500, 503, 599])('%i may succeed later', (status) => {
  expect(isRetryable(answer(status))).toBe(true);
});

test.each([400, 401, 402, 403, 404, 410, 422])('%i will not succeed later', (status) => {
  expect(isRetryable(answer(status))).toBe(false);
});

test('x-should-retry overrides the rule', () => {
  expect(isRetryable(answer(400, { 'x-should-retry': 'true' }))).toBe(true);
  expect(isRetryable(answer(500, { 'x-should-retry': 'false' }))).toBe(false);
});

test('connection errors and timeouts are repeated, failed requests are not', () => {
  expect(isRetryable(new APIConnectionError('x'))).toBe(true);
  expect(isRetryable(new APITimeoutError('x'))).toBe(true);
  expect(isRetryable(new RequestFailedError('x', 'id', 'server'))).toBe(false);
});
