/**
 * Integers of the wire. JSON numbers above 2^53 lose digits as doubles, so the counters and seeds that reach 2^64 are
 * `bigint` here; whoever parses the JSON must hand large integers over as `bigint`.
 */
import * as z from 'zod';

const UINT64_MAX = 2n ** 64n - 1n;

function problemWithUint64(value: unknown): string | undefined {
  if (typeof value === 'bigint') {
    return value >= 0n && value <= UINT64_MAX ? undefined : `must be between 0 and 2^64-1, got ${value}`;
  }
  if (typeof value !== 'number' || !Number.isInteger(value)) {
    return `must be an integer (number or bigint), got ${typeof value === 'number' ? value : typeof value}`;
  }
  if (value < 0) return `must be between 0 and 2^64-1, got ${value}`;
  return Number.isSafeInteger(value) ? undefined : `${value} lost digits as a double: pass a bigint`;
}

function wideInteger(format: string) {
  return z
    .custom<number | bigint>()
    .check((payload) => {
      const message = problemWithUint64(payload.value);
      if (message) payload.issues.push({ code: 'custom', message, input: payload.value });
    })
    .meta({ type: 'integer', format, minimum: 0 });
}

/** An unsigned 64-bit integer: accepts `number` or `bigint`, gives `bigint`. */
export const Uint64 = z.codec(wideInteger('uint64'), z.bigint(), {
  decode: (value) => BigInt(value),
  encode: (value) => value,
});

/**
 * A client counter that fits a double (the training `seq_id`, `model_seq_id`): accepts `number` or `bigint`, gives
 * `number`.
 */
export const Counter = z.codec(wideInteger('int64'), z.int().nonnegative(), {
  decode: (value) => Number(value),
  encode: (value) => value,
});

/** A token id as JSON carries it. The upper bound is the vocabulary's, which only the model knows. */
export const TokenId = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);
