import type { ByteRange } from '@anneal/store';
import { ApiError } from '../errors.ts';

/**
 * The one range that a `Range` header asks for. Undefined: send everything; several ranges and units that we do not
 * know count as no range, as HTTP allows.
 *
 * @throws ApiError `range_not_satisfiable` when it lies outside.
 */
export function parseRange(header: string | undefined, size: number): ByteRange | undefined {
  const match = /^bytes=(?<first>\d*)-(?<last>\d*)$/.exec(header ?? '');
  const { first = '', last = '' } = match?.groups ?? {};
  if (!match || (first === '' && last === '')) return undefined;
  const start = first === '' ? Math.max(size - Number(last), 0) : Number(first);
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  if (start > end || start >= size) {
    throw new ApiError('range_not_satisfiable', `Range "${header}" lies outside of ${size} bytes`);
  }
  return { start, end };
}
