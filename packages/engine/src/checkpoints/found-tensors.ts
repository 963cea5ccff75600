/** An adapter's tensors as an import finds them: by module of ours, whatever they are called in the file and however they lie there. */
import type { SafetensorsReader } from '@anneal/safetensors';
import { EngineError } from '../engine.ts';
import { ADAPTER } from './checkpoint-files.ts';

export interface FoundTensor {
  /** Of the file, for messages. */
  name: string;
  shape: readonly number[];
  /** @throws EngineError (user) at the first value that is not finite. */
  values(): Float32Array;
}

export interface FoundPair {
  A?: FoundTensor;
  B?: FoundTensor;
}

/** By module path. */
export type Found = Map<string, FoundPair>;

/** A tensor of the file as it is. */
export function foundTensor(reader: SafetensorsReader, name: string): FoundTensor {
  return { name, shape: reader.info(name).shape, values: () => finite(reader.readFloat32Sync(name), name) };
}

/** @throws EngineError (user) that names a tensor and says what is wrong with it. */
export function refused(name: string, problem: string): EngineError {
  return new EngineError('user', `${ADAPTER}: tensor "${name}" ${problem}`);
}

/** @throws EngineError (user) where a tensor has another shape. */
export function expectFoundShape(
  { name, shape }: FoundTensor,
  wanted: readonly number[],
  rank: number,
): void {
  if (shape.join() === wanted.join()) return;
  throw refused(
    name,
    `has shape [${shape.join(', ')}]; with r ${rank} the base model needs [${wanted.join(', ')}].`,
  );
}

/** Some columns of some rows of a row-major matrix `width` wide. */
export function block(
  values: Float32Array,
  width: number,
  rows: readonly number[],
  columns: readonly number[],
): Float32Array {
  const picked = new Float32Array(rows.length * columns.length);
  let at = 0;
  for (const row of rows) for (const column of columns) picked[at++] = values[row * width + column]!;
  return picked;
}

/** `count` integers from `start` on, `step` apart. */
export function range(start: number, count: number, step = 1): number[] {
  return Array.from({ length: count }, (_, i) => start + i * step);
}

function finite(values: Float32Array, name: string): Float32Array {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return values;
  throw refused(name, `holds ${values[at]} at element ${at}: weights must be finite.`);
}
