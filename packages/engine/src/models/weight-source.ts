/** How a layer's weights are found in a checkpoint: by name, or put together of several stored tensors. */
import { float32ToBfloat16, type SafetensorsReader } from '@anneal/safetensors';
import {
  backendInfo,
  bfloat16Tensor,
  int8Tensor,
  quantiseRows,
  SCALE_BYTES,
  type Tensor,
  tf,
  upload,
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
  /** Row-major values of one part. */
  part(reader: SafetensorsReader, index: number): Float32Array;
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
 * Puts a weight on the device.
 * @throws EngineError (user) for a tensor that is missing, misshapen or not finite.
 */
export function loadWeight(reader: SafetensorsReader, source: WeightSource, precision: Precision): Tensor {
  if (typeof source === 'string') return loadTensor(reader, source, precision);
  return 'wide' in source ? loadTensor(reader, source.wide, 'fp32') : loadParts(reader, source, precision);
}

function loadTensor(reader: SafetensorsReader, name: string, precision: Precision): Tensor {
  expectStored(reader, name);
  const info = reader.info(name);
  const shape = [...info.shape];
  if (precision === 'int8' && shape.length >= 2) {
    const width = shape.at(-1) as number;
    return int8Tensor(quantiseRows(finite(reader.readFloat32Sync(name), name), width), shape);
  }
  if (isKeptNarrow(precision, shape, [info.dtype])) {
    if (info.dtype === 'BF16') return bfloat16Tensor(bitsOf(reader, { name, shape, index: 0, of: 1 }), shape);
    return bfloat16Tensor(float32ToBfloat16(finite(reader.readFloat32Sync(name), name)), shape);
  }
  return upload(tf.tensor(finite(reader.readFloat32Sync(name), name), shape, 'float32'));
}

/** @param stored Types of all that a weight is made of; undefined where its values are computed. */
function isKeptNarrow(precision: Precision, shape: number[], stored: string[] | undefined): boolean {
  if (shape.length < 2 || precision === 'fp32' || precision === 'int8') return false;
  if (precision === 'bf16') return true;
  return backendInfo().compiled && (stored?.every((dtype) => dtype === 'BF16') ?? false);
}

/** A BF16 tensor, or a piece of it, as it is stored. */
function bitsOf(reader: SafetensorsReader, { name, shape, index, of }: StoredShare): Uint16Array {
  expectStored(reader, name, shape);
  const size = reader.info(name).byteLength / of;
  const bytes = reader.readPartSync(name, index * size, (index + 1) * size);
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}

function dtypeOf(reader: SafetensorsReader, { name, shape }: StoredShare): string {
  expectStored(reader, name, shape);
  return reader.info(name).dtype;
}

function loadParts(reader: SafetensorsReader, source: StackedWeights, precision: Precision): Tensor {
  const { shape } = source;
  const [parts, ...rest] = shape as [number, ...number[]];
  const size = rest.reduce((a, b) => a * b, 1);
  const shares = source.shares?.(reader);
  const part = (index: number) => source.part(reader, index);
  if (precision === 'int8' && shape.length >= 3) {
    const width = shape.at(-1) as number;
    const packedSize = (size / width) * (width + SCALE_BYTES);
    const packed = new Int8Array(parts * packedSize);
    for (let i = 0; i < parts; i++) packed.set(quantiseRows(part(i), width), i * packedSize);
    return int8Tensor(packed, shape);
  }
  const stored = shares?.map((share) => dtypeOf(reader, share));
  if (isKeptNarrow(precision, shape, stored)) {
    const bits = new Uint16Array(parts * size);
    for (let i = 0; i < parts; i++) {
      const values = stored?.[i] === 'BF16' ? bitsOf(reader, shares![i]!) : float32ToBfloat16(part(i));
      bits.set(values, i * size);
    }
    return bfloat16Tensor(bits, shape);
  }
  const values = new Float32Array(parts * size);
  for (let i = 0; i < parts; i++) values.set(part(i), i * size);
  return upload(tf.tensor(values, shape, 'float32'));
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

/** @throws EngineError (user) at the first value that is not finite. */
export function finite<V extends Float32Array>(values: V, name: string): V {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]))
      throw new EngineError(
        'user',
        `Tensor "${name}" of the checkpoint holds ${values[i]} at element ${i}: weights must be finite.`,
      );
  }
  return values;
}
