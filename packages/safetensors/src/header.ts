// The header of a safetensors file as text: 8 bytes little-endian length, then JSON padded with spaces, then the data.
// Free of Node APIs. Format: https://github.com/huggingface/safetensors#format
import { z } from 'zod';
import { byteLengthOf, DTYPES, type Dtype, isDtype } from './dtype.ts';
import { SafetensorsError } from './errors.ts';

/** Bytes of the length field in front of the JSON. */
export const LENGTH_BYTES = 8;

/** Longest JSON header in bytes; the format's reference implementation draws the same line. */
export const MAX_HEADER_BYTES = 100_000_000;

/** One tensor as the header describes it. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Size of the stored data in bytes. */
  readonly byteLength: number;
}

/** A tensor and where its data begins. */
export interface TensorEntry extends TensorInfo {
  /** Bytes from the start of the file. */
  readonly position: number;
}

export interface Header {
  readonly tensors: readonly TensorEntry[];
  /** The free-form strings under `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
}

const METADATA_KEY = '__metadata__';
const size = z.number().int().nonnegative();
const entrySchema = z.strictObject({
  dtype: z.string(),
  shape: z.array(size),
  data_offsets: z.tuple([size, size]),
});
const metadataSchema = z.record(z.string(), z.string());

/**
 * Reads and checks a header.
 *
 * @param json the JSON bytes, without the length field
 * @param fileBytes size of the whole file, to which the offsets must add up exactly
 * @param file path that errors name
 * @throws SafetensorsError for anything that the format forbids: see {@link SafetensorsError.code}
 */
export function parseHeader(json: Uint8Array, fileBytes: number, file: string): Header {
  const text = decodeText(json, file);
  const object = parseObject(text, file);
  refuseDuplicateKeys(text, file);
  const dataStart = LENGTH_BYTES + json.byteLength;
  const tensors: TensorEntry[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(object)) {
    if (name === METADATA_KEY) metadata = parseMetadata(value, file);
    else tensors.push(parseEntry(name, value, dataStart, file));
  }
  checkLayout(tensors, dataStart, fileBytes, file);
  tensors.sort((a, b) => (a.name < b.name ? -1 : 1));
  return { tensors, metadata };
}

function decodeText(json: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(json);
  } catch {
    throw new SafetensorsError(
      'header_not_json',
      file,
      'the header is not UTF-8 text; is it a safetensors file?',
    );
  }
}

function parseObject(text: string, file: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SafetensorsError('header_not_json', file, `the header is not JSON: ${reason}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SafetensorsError('header_invalid', file, 'the header is not a JSON object');
  }
  return value;
}

/** JSON.parse keeps the last of two equal keys without a word, so the keys of the outermost object are scanned. */
function refuseDuplicateKeys(text: string, file: string): void {
  const seen = new Set<string>();
  const token = /("(?:[^"\\]|\\.)*")(\s*:)?|[{}[\]]/g;
  let depth = 0;
  for (let match = token.exec(text); match; match = token.exec(text)) {
    const symbol = match[0];
    if (symbol === '{' || symbol === '[') depth++;
    else if (symbol === '}' || symbol === ']') depth--;
    else if (depth === 1 && match[1] && match[2]) {
      const key = JSON.parse(match[1]) as string;
      if (seen.has(key)) throw new SafetensorsError('duplicate_tensor', file, 'the name occurs twice', key);
      seen.add(key);
    }
  }
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  const parsed = metadataSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new SafetensorsError('header_invalid', file, `${METADATA_KEY} must map strings to strings`);
}

function parseEntry(name: string, value: unknown, dataStart: number, file: string): TensorEntry {
  const parsed = entrySchema.safeParse(value);
  if (!parsed.success) {
    throw new SafetensorsError('header_invalid', file, z.prettifyError(parsed.error), name);
  }
  const { dtype, shape, data_offsets: offsets } = parsed.data;
  const [begin, end] = offsets;
  if (!isDtype(dtype)) {
    const problem = `unknown dtype "${dtype}" (known: ${DTYPES.join(', ')})`;
    throw new SafetensorsError('unknown_dtype', file, problem, name);
  }
  if (end < begin) {
    throw new SafetensorsError('offset_invalid', file, `data_offsets [${begin}, ${end}] run backwards`, name);
  }
  const expected = byteLengthOf(dtype, shape);
  if (expected !== end - begin) {
    const wanted = expected === undefined ? 'an impossible number of' : expected;
    const problem = `dtype ${dtype} and shape [${shape}] take ${wanted} bytes, but data_offsets [${begin}, ${end}] hold ${end - begin}`;
    throw new SafetensorsError('size_mismatch', file, problem, name);
  }
  return { name, dtype, shape, byteLength: expected, position: dataStart + begin };
}

/** The data must cover the rest of the file without gap or overlap, as the format demands. */
function checkLayout(tensors: TensorEntry[], dataStart: number, fileBytes: number, file: string): void {
  tensors.sort((a, b) => a.position - b.position || a.byteLength - b.byteLength);
  let end = dataStart;
  for (const tensor of tensors) {
    if (tensor.position !== end) {
      const problem =
        tensor.position < end
          ? `its data overlaps the tensor before it by ${end - tensor.position} bytes`
          : `${tensor.position - end} bytes before its data belong to no tensor`;
      throw new SafetensorsError('offset_invalid', file, problem, tensor.name);
    }
    end += tensor.byteLength;
    if (end > fileBytes) {
      const problem = `its data ends at byte ${end}, but the file has ${fileBytes}; the file is cut off, fetch it again`;
      throw new SafetensorsError('truncated', file, problem, tensor.name);
    }
  }
  if (end !== fileBytes) {
    throw new SafetensorsError(
      'offset_invalid',
      file,
      `${fileBytes - end} bytes after the last tensor belong to none`,
    );
  }
}

/**
 * The length field and JSON of a header, padded so that the data begins at a multiple of 8 bytes.
 *
 * @param tensors in the order in which their data follows
 */
export function encodeHeader(
  tensors: readonly TensorInfo[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  // A list of pairs, not an object: object keys that look like integers would jump to the front.
  const members: string[] = [];
  if (metadata) members.push(`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`);
  let offset = 0;
  for (const { name, dtype, shape, byteLength } of tensors) {
    const entry = { dtype, shape, data_offsets: [offset, offset + byteLength] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    offset += byteLength;
  }
  const json = new TextEncoder().encode(`{${members.join(',')}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const out = new Uint8Array(LENGTH_BYTES + padded).fill(0x20);
  new DataView(out.buffer).setBigUint64(0, BigInt(padded), true);
  out.set(json, LENGTH_BYTES);
  return out;
}
