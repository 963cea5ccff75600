/** Top-k logprobs: dense matrices on the wire, rows of pairs for users. */
import { create } from '@bufbuild/protobuf';
import { type TopkLogprobs, TopkLogprobsSchema } from '../gen/tinker_public_pb.ts';
import { packFloat32, packInt32, unpackFloat32, unpackInt32 } from './packed.ts';
import { WireFormatError } from './wire-format-error.ts';

/** Logprob of a cell that holds nothing; its token id is 0. */
export const MASK_LOGPROB = -99999;

/** Rows of (token id, logprob), best first, row-major [length, k]. */
export interface TopkMatrix {
  k: number;
  length: number;
  tokenIds: Int32Array;
  logprobs: Float32Array;
}

/** One position's pairs, or `null` where nothing was computed. */
export type TopkRow = [tokenId: number, logprob: number][] | null;

export function encodeTopk(matrix: TopkMatrix): TopkLogprobs {
  const { k, length } = matrix;
  return create(TopkLogprobsSchema, {
    k,
    length,
    tokenIds: packInt32(matrix.tokenIds),
    logprobs: packFloat32(matrix.logprobs),
  });
}

/**
 * The matrix of a message.
 *
 * @throws WireFormatError when the matrices do not have `length * k` cells.
 */
export function decodeTopk(message: TopkLogprobs, path: string): TopkMatrix {
  const { k, length } = message;
  const tokenIds = unpackInt32(message.tokenIds, `${path}.token_ids`);
  const logprobs = unpackFloat32(message.logprobs, `${path}.logprobs`);
  if (tokenIds.length !== k * length || logprobs.length !== k * length) {
    throw new WireFormatError(path, `${length} rows of ${k} do not match ${tokenIds.length} cells`);
  }
  return { k, length, tokenIds, logprobs };
}

/** Rows of pairs; empty cells at the end of a row are left out. */
export function topkRows(matrix: TopkMatrix): TopkRow[] {
  const { k, length, tokenIds, logprobs } = matrix;
  if (k === 0) return [];
  const isEmpty = (cell: number) => tokenIds[cell] === 0 && logprobs[cell] === MASK_LOGPROB;
  return Array.from({ length }, (_, row) => {
    const start = row * k;
    if (isEmpty(start)) return null;
    let end = start + k;
    while (end > start && isEmpty(end - 1)) end--;
    const cells = Array.from({ length: end - start }, (_cell, index) => start + index);
    return cells.map((cell): [number, number] => [tokenIds[cell]!, logprobs[cell]!]);
  });
}
