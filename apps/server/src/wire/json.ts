import { isInteger, isSafeNumber, parse } from 'lossless-json';
import { ApiError } from '../errors.ts';

/** Only a run of digits this long can lose some as a double. */
const LONG_NUMBER = /\d{16}/;

/**
 * Parses JSON without losing digits: integers beyond 2^53 become `bigint`, all other numbers are doubles. `seq_id` of a
 * cloned sampling client and `seed` need it.
 *
 * @throws ApiError `invalid_request` when the text is no JSON.
 */
export function parseJson(text: string): unknown {
  try {
    return LONG_NUMBER.test(text) ? parse(text, null, { parseNumber }) : JSON.parse(text);
  } catch (cause) {
    throw new ApiError('invalid_request', `The body is no valid JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function parseNumber(text: string): number | bigint {
  return isInteger(text) && !isSafeNumber(text) ? BigInt(text) : Number(text);
}
