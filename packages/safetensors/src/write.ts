// Writes a safetensors file, one tensor in memory at a time.
import { type FileHandle, open, rm } from 'node:fs/promises';
import { byteLengthOf, type Dtype, dtypeRank, isDtype } from './dtype.ts';
import { SafetensorsError } from './errors.ts';
import { encodeHeader, type TensorInfo } from './header.ts';

/** Tensor data: the dtype's typed array (16-bit floats: their bits in Uint16Array), or its little-endian bytes. */
export type TensorData =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

/** Tensor data as it is, or piece by piece. */
export type TensorPieces = TensorData | Iterable<TensorData>;

/**
 * A tensor to write. `data` may be a function, called when its turn comes, so that a large model is never in memory; what it gives
 * may come in pieces, so that a large tensor is not either.
 */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TensorData | (() => TensorPieces | Promise<TensorPieces>);
}

const ARRAY_OF: Partial<Record<Dtype, string>> = {
  I8: 'Int8Array',
  I16: 'Int16Array',
  U16: 'Uint16Array',
  F16: 'Uint16Array',
  BF16: 'Uint16Array',
  I32: 'Int32Array',
  U32: 'Uint32Array',
  F32: 'Float32Array',
  F64: 'Float64Array',
  I64: 'BigInt64Array',
  U64: 'BigUint64Array',
};

/**
 * Writes tensors to `file`, widest elements first and then by name (as the reference implementation orders them, which
 * keeps each tensor aligned), and returns once they are on the disk (fsync). On failure the file is removed.
 *
 * @param metadata free-form strings for the header; PEFT and transformers expect `{ format: 'pt' }`
 * @returns bytes written
 * @throws SafetensorsError for a repeated name, or data that does not fit dtype and shape
 */
export async function writeSafetensors(
  file: string,
  tensors: Iterable<TensorToWrite>,
  metadata?: Readonly<Record<string, string>>,
): Promise<number> {
  const sorted = [...tensors].sort(inFileOrder);
  const infos = sorted.map((tensor) => infoOf(tensor, file));
  refuseDuplicates(infos, file);
  const header = encodeHeader(infos, metadata);
  const handle = await open(file, 'w');
  try {
    await writeFully(handle, header);
    for (const tensor of sorted) await writeTensor(handle, tensor, file);
    await handle.sync();
    await handle.close();
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(file, { force: true });
    throw error;
  }
  return infos.reduce((sum, info) => sum + info.byteLength, header.byteLength);
}

function inFileOrder(a: TensorToWrite, b: TensorToWrite): number {
  return dtypeRank(b.dtype) - dtypeRank(a.dtype) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

function infoOf({ name, dtype, shape }: TensorToWrite, file: string): TensorInfo {
  if (!isDtype(dtype)) throw new SafetensorsError('unknown_dtype', file, `unknown dtype "${dtype}"`, name);
  if (name === '__metadata__')
    throw new SafetensorsError('tensor_invalid', file, 'the name is reserved', name);
  const byteLength = shape.every((size) => size >= 0) ? byteLengthOf(dtype, shape) : undefined;
  if (byteLength === undefined) {
    throw new SafetensorsError('tensor_invalid', file, `shape [${shape}] is not possible for ${dtype}`, name);
  }
  return { name, dtype, shape, byteLength };
}

function refuseDuplicates(infos: readonly TensorInfo[], file: string): void {
  const seen = new Set<string>();
  for (const { name } of infos) {
    if (seen.has(name)) throw new SafetensorsError('duplicate_tensor', file, 'given twice', name);
    seen.add(name);
  }
}

async function writeTensor(handle: FileHandle, tensor: TensorToWrite, file: string): Promise<void> {
  const { name, dtype, shape } = tensor;
  const data = typeof tensor.data === 'function' ? await tensor.data() : tensor.data;
  const expected = byteLengthOf(dtype, shape) as number;
  if (ArrayBuffer.isView(data) && data.byteLength !== expected)
    throw wrongSize(tensor, data.byteLength, file);
  let written = 0;
  for (const piece of ArrayBuffer.isView(data) ? [data] : data) {
    const wanted = ARRAY_OF[dtype];
    const given = piece.constructor.name;
    if (!(piece instanceof Uint8Array) && given !== wanted) {
      const problem = `dtype ${dtype} takes ${wanted ? `${wanted} or ` : ''}Uint8Array, not ${given}`;
      throw new SafetensorsError('tensor_invalid', file, problem, name);
    }
    await writeFully(handle, new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
    written += piece.byteLength;
  }
  if (written !== expected) throw wrongSize(tensor, written, file);
}

function wrongSize({ name, dtype, shape }: TensorToWrite, given: number, file: string): SafetensorsError {
  const expected = byteLengthOf(dtype, shape);
  const problem = `dtype ${dtype} and shape [${shape}] take ${expected} bytes, but the data has ${given}`;
  return new SafetensorsError('size_mismatch', file, problem, name);
}

/** One write call may ask at most 2 GiB, and may write less than asked. */
async function writeFully(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const length = Math.min(bytes.byteLength - done, 64 << 20);
    done += (await handle.write(bytes, done, length)).bytesWritten;
  }
}
