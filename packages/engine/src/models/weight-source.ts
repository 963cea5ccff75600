/** How a layer's weights are found in a checkpoint: by name, or put together of several stored tensors. */
import { bfloat16ToFloat32, float32IntoBfloat16, type SafetensorsReader } from '@anneal/safetensors';
import {
  backendInfo,
  filledTensor,
  quantiseRowsInto,
  type Storage,
  type StoredValues,
  storedShape,
  type Tensor,
} from '@anneal/tensorflow';
import { EngineError } from '../engine.ts';

/**
 * How matrices are kept; vectors are always float32. `auto`: as the checkpoint has them, bfloat16 or else float32, and products
 * are computed in float32, so that nothing is lost. `bf16`: in bfloat16, multiplied in bfloat16 where the processor or GPU can.
 * `int8`: in 8 bits with a scale for each row, multiplied in float32.
 */
export type Precision = 'auto' | 'fp32' | 'bf16' | 'int8';

/** A tensor of the checkpoint as it is, one that no product reads, or one that is made of parts. */
export type WeightSource = string | WideWeight | StackedWeights;

/** Kept in float32 whatever the precision: small, and more exact than it would be otherwise. */
export interface WideWeight {
  wide: string;
}

/** A tensor [parts, ...]; its parts are read one after another, so that no more than one is held besides the result. */
export interface StackedWeights {
  shape: number[];
  /** Row-major values of one part, in an array of their own, which whoever asks frees. */
  part(reader: SafetensorsReader, index: number): Float32Array<ArrayBuffer>;
  /** Where each part is, if it is stored as it is. */
  shares?(reader: SafetensorsReader): readonly StoredShare[];
}

/** One of `of` equal pieces, in row-major order, of a stored tensor. */
export interface StoredShare {
  name: string;
  /** The stored tensor's. */
  shape: readonly number[];
  index: number;
  of: number;
}

/** Equal tensors of the checkpoint, one part each. */
export function stacked(names: string[], shape: number[]): StackedWeights {
  const shares = names.map((name): StoredShare => ({ name, shape, index: 0, of: 1 }));
  return stackedShares(() => shares, [names.length, ...shape]);
}

/** Pieces of stored tensors, one part each. */
export function stackedShares(
  shares: (reader: SafetensorsReader) => readonly StoredShare[],
  shape: number[],
): StackedWeights {
  return {
    shape,
    shares,
    part: (reader, at) => {
      const { name, shape: stored, index, of } = shares(reader)[at]!;
      expectStored(reader, name, stored);
      return finite(reader.readFloat32PartSync(name, index, of), name);
    },
  };
}

/**
 * Puts a weight on the device, into whose memory its values are written piece by piece: besides the result, no more is held than a
 * few rows, or one part of a stack.
 * @throws EngineError (user) for a tensor that is missing, misshapen or not finite.
 */
export function loadWeight(reader: SafetensorsReader, source: WeightSource, precision: Precision): Tensor {
  const { storage, shape } = keptAs(reader, source, precision, backendInfo().compiled);
  return filledTensor(storage, shape, (values) => {
    if (isStored(source)) fillStored(reader, nameOf(source), shape, values);
    else fillParts(reader, source, shape, values);
  });
}

const ELEMENT_BYTES = { float32: 4, bfloat16: 2, int8: 1 };

/**
 * Bytes that {@link loadWeight} takes on the device, read off the checkpoint's headers.
 * @param compiled Whether TensorFlow runs compiled functions, which alone take narrow weights
 */
export function weightBytes(
  reader: SafetensorsReader,
  source: WeightSource,
  precision: Precision,
  compiled: boolean,
): number {
  const { storage, shape } = keptAs(reader, source, precision, compiled);
  return ELEMENT_BYTES[storage] * sizeOf(storedShape(storage, shape));
}

function isStored(source: WeightSource): source is string | WideWeight {
  return typeof source === 'string' || 'wide' in source;
}

function nameOf(source: string | WideWeight): string {
  return typeof source === 'string' ? source : source.wide;
}

function keptAs(
  reader: SafetensorsReader,
  source: WeightSource,
  precision: Precision,
  compiled: boolean,
): { storage: Storage; shape: number[] } {
  if (!isStored(source)) {
    const { shape } = source;
    if (precision === 'int8') return { storage: shape.length >= 3 ? 'int8' : 'float32', shape };
    const stored = precision === 'auto' ? source.shares?.(reader).map((share) => dtypeOf(reader, share)) : [];
    return { storage: storageOf(precision, shape, stored, compiled), shape };
  }
  const name = nameOf(source);
  expectStored(reader, name);
  const { dtype, shape: stored } = reader.info(name);
  const shape = [...stored];
  if (typeof source !== 'string') return { storage: 'float32', shape };
  if (precision === 'int8') return { storage: shape.length >= 2 ? 'int8' : 'float32', shape };
  return { storage: storageOf(precision, shape, [dtype], compiled), shape };
}

/** @param stored Types of all that a weight is made of; undefined where its values are computed. */
function storageOf(
  precision: Precision,
  shape: number[],
  stored: string[] | undefined,
  compiled: boolean,
): Storage {
  if (shape.length < 2 || precision === 'fp32') return 'float32';
  if (precision === 'bf16') return 'bfloat16';
  return compiled && (stored?.every((dtype) => dtype === 'BF16') ?? false) ? 'bfloat16' : 'float32';
}

function fillStored(reader: SafetensorsReader, name: string, shape: number[], values: StoredValues): void {
  if (values instanceof Uint16Array && reader.info(name).dtype === 'BF16') {
    fillBits(reader, { name, shape, index: 0, of: 1 }, values);
    return;
  }
  const width = shape.at(-1) ?? 1;
  const share = values.length / sizeOf(shape);
  let read = 0;
  for (const rows of reader.float32RowsSync(name, width)) {
    const target = values.subarray(read * share, (read + rows.length) * share);
    narrowInto(finite(rows, name, read), width, target);
    read += rows.length;
  }
}

function fillParts(
  reader: SafetensorsReader,
  source: StackedWeights,
  shape: number[],
  values: StoredValues,
): void {
  const parts = shape[0] as number;
  const shares = source.shares?.(reader);
  const size = values.length / parts;
  for (let index = 0; index < parts; index++) {
    const target = values.subarray(index * size, (index + 1) * size);
    const share = shares?.[index];
    if (target instanceof Uint16Array && share && dtypeOf(reader, share) === 'BF16') {
      fillBits(reader, share, target);
      continue;
    }
    const part = source.part(reader, index);
    narrowInto(part, shape.at(-1) as number, target);
    release(part);
  }
}

/** Writes rows in the form in which `target` keeps them. */
function narrowInto(rows: Float32Array, width: number, target: StoredValues): void {
  if (target instanceof Uint16Array) float32IntoBfloat16(rows, target);
  else if (target instanceof Int8Array) quantiseRowsInto(rows, width, target);
  else target.set(rows);
}

/** A BF16 tensor, or a piece of it, as it is stored. */
function fillBits(
  reader: SafetensorsReader,
  { name, shape, index, of }: StoredShare,
  bits: Uint16Array<ArrayBuffer>,
): void {
  expectStored(reader, name, shape);
  const size = reader.info(name).byteLength / of;
  reader.readIntoSync(name, index * size, new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
  for (let i = 0; i < bits.length; i++)
    if ((bits[i]! & INFINITE) === INFINITE) finite(bfloat16ToFloat32(bits.subarray(i, i + 1)), name, i);
}

/** The exponent bits of a bfloat16, all of which are set in what is not finite. */
const INFINITE = 0x7f80;

function dtypeOf(reader: SafetensorsReader, { name, shape }: StoredShare): string {
  expectStored(reader, name, shape);
  return reader.info(name).dtype;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Frees memory that the garbage collector would free much later: the parts of a stack would be in memory twice. */
function release({ buffer }: Float32Array<ArrayBuffer>): void {
  (buffer as ArrayBuffer & Partial<Transferable>).transfer?.(0);
}

/** Of Node 21 and newer; TypeScript's ES2023 does not know it. */
interface Transferable {
  transfer(newByteLength: number): ArrayBuffer;
}

/** @throws EngineError (user) when the checkpoint lacks a tensor, or has it in another shape. */
export function expectStored(reader: SafetensorsReader, name: string, shape?: readonly number[]): void {
  if (!reader.has(name))
    throw new EngineError('user', `The checkpoint has no tensor "${name}", which its config.json asks for.`);
  if (shape) expectShape(reader.info(name).shape, shape, name);
}

export function expectShape(found: readonly number[], wanted: readonly number[], name: string): void {
  if (found.join() === wanted.join()) return;
  throw new EngineError(
    'user',
    `Tensor "${name}" has shape [${found.join(', ')}], config.json says [${wanted.join(', ')}].`,
  );
}

/**
 * @param from Elements of the tensor before these values.
 * @throws EngineError (user) at the first value that is not finite.
 */
export function finite<V extends Float32Array>(values: V, name: string, from = 0): V {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]))
      throw new EngineError(
        'user',
        `Tensor "${name}" of the checkpoint holds ${values[i]} at element ${from + i}: weights must be finite.`,
      );
  }
  return values;
}
