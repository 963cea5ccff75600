/** Matrices in 8 bits inside a trace: how they become float32, and what can be done to them as they are. */
import { DataType, type NativeBinding, type OpAttr } from '../binding.ts';
import { SCALE_BYTES } from '../int8.ts';
import type { Ref } from './trace.ts';

/** What is needed of a trace to add nodes to it. */
export interface NodeAdder {
  add(op: string, attrs: OpAttr[], inputs: Ref[]): Ref;
  int32(values: number[]): Ref;
}

/** q · scale of a packed matrix, of this shape without the scales' bytes. Left out of functions in which only our own op reads it. */
export function dequantise(
  { TF_ATTR_TYPE: type }: NativeBinding,
  adder: NodeAdder,
  packed: Ref,
  shape: number[],
): Ref {
  const attr = (name: string, value: number): OpAttr => ({ name, type, value });
  const width = shape.at(-1) as number;
  const part = (start: number, size: number) =>
    adder.add(
      'Slice',
      [attr('T', DataType.int8), attr('Index', DataType.int32)],
      [packed, adder.int32([...shape.slice(1).fill(0), start]), adder.int32([...shape.slice(0, -1), size])],
    );
  const scales = adder.add(
    'Bitcast',
    [attr('T', DataType.int8), attr('type', DataType.float32)],
    [part(width, SCALE_BYTES)],
  );
  const columns = adder.add(
    'Reshape',
    [attr('T', DataType.float32), attr('Tshape', DataType.int32)],
    [scales, adder.int32([...shape.slice(0, -1), 1])],
  );
  const values = adder.add(
    'Cast',
    [attr('SrcT', DataType.int8), attr('DstT', DataType.float32)],
    [part(0, width)],
  );
  return adder.add('Mul', [attr('T', DataType.float32)], [values, columns]);
}

/** Ops that may move whole packed rows; the rest goes through float32. */
export const MOVES_ROWS = new Set(['GatherV2', 'Reshape', 'Unpack']);

/** Whether a reshape keeps rows as they are: it adds or drops dimensions of one. */
export function keepsRows(from: readonly number[], to: readonly number[]): boolean {
  const significant = (shape: readonly number[]) => shape.slice(0, -2).filter((size) => size !== 1);
  return (
    to.length >= 2 &&
    from.slice(-2).join() === to.slice(-2).join() &&
    significant(from).join() === significant(to).join()
  );
}
