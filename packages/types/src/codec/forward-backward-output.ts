/** Training results: per-datum typed arrays to protobuf (servers), and protobuf to {@link TensorData} (clients). */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { ForwardBackwardOutput, LossFnOutput } from '../forward-backward-output.ts';
import * as pb from '../gen/tinker_public_pb.ts';
import type { DenseTensor } from '../tensor-convert.ts';
import type { TensorData } from '../tensor-data.ts';
import { sizeOf } from '../tensor-layout.ts';
import { pack, packInt64, unpackInt64Numbers } from './packed.ts';
import { checkFilled, dtypeOf, unpackNumbers } from './tensor.ts';
import { WireFormatError } from './wire-format-error.ts';

/** A training result as a server has it. */
export interface EncodableForwardBackwardOutput {
  /** Shown to users; `ArrayRecord` when absent. */
  lossFnOutputType?: string;
  /** One record per datum, in request order, all with the same names. */
  outputs: Record<string, DenseTensor>[];
  /** Keys are `name:reduction`. */
  metrics: Record<string, number>;
}

/** Datums share an ArrayRecord when all of their tensors agree in type and in all dimensions but the first. */
function layoutOf(record: Record<string, DenseTensor>): string {
  const names = Object.keys(record).sort();
  return JSON.stringify(names.map((name) => [name, record[name]!.dtype, record[name]!.shape.slice(1)]));
}

function checkRecord(record: Record<string, DenseTensor>, names: readonly string[], index: number): void {
  const path = `loss_fn_outputs[${index}]`;
  const own = Object.keys(record).sort();
  if (own.join() !== names.join()) {
    throw new WireFormatError(path, `has [${own}], the first datum has [${names}]: all must agree`, {
      datum: index,
    });
  }
  for (const [name, tensor] of Object.entries(record)) {
    if (tensor.shape.length === 0)
      throw new WireFormatError(`${path}.${name}`, 'is a scalar: give it a dimension');
    checkFilled(tensor, `${path}.${name}`);
  }
}

/** Runs of neighbours that share an ArrayRecord; request order is kept. */
function groupNeighbours(outputs: Record<string, DenseTensor>[]): Record<string, DenseTensor>[][] {
  const groups: Record<string, DenseTensor>[][] = [];
  let last = '';
  for (const record of outputs) {
    const layout = layoutOf(record);
    if (groups.length > 0 && layout === last) groups.at(-1)!.push(record);
    else groups.push([record]);
    last = layout;
  }
  return groups;
}

function encodeBatch(tensors: DenseTensor[]): pb.BatchedTensor {
  const offsets = [0];
  for (const { data } of tensors) offsets.push(offsets.at(-1)! + data.byteLength);
  const data = new Uint8Array(offsets.at(-1)!);
  tensors.forEach((tensor, index) => {
    data.set(pack(tensor.data), offsets[index]!);
  });
  return create(pb.BatchedTensorSchema, {
    data,
    offsets: packInt64(offsets),
    dtype: dtypeOf(tensors[0]!),
    trailingShape: tensors[0]!.shape.slice(1).map(BigInt),
  });
}

function encodeGroup(group: Record<string, DenseTensor>[], typeTag: string): pb.ArrayRecord {
  const names = Object.keys(group[0]!);
  const fields = names.map((name) => [name, encodeBatch(group.map((record) => record[name]!))] as const);
  return create(pb.ArrayRecordSchema, {
    typeTag,
    fields: Object.fromEntries(fields),
    numDatums: BigInt(group.length),
  });
}

/**
 * Body of a finished training request.
 *
 * @throws WireFormatError when datums differ in their names or a tensor does not fill its shape.
 */
export function encodeForwardBackwardOutput(output: EncodableForwardBackwardOutput): Uint8Array<ArrayBuffer> {
  const lossFnOutputType = output.lossFnOutputType ?? 'ArrayRecord';
  const names = Object.keys(output.outputs[0] ?? {}).sort();
  for (const [index, record] of output.outputs.entries()) checkRecord(record, names, index);
  const message = create(pb.ForwardBackwardOutputSchema, {
    lossFnOutputType,
    lossFnOutputs: groupNeighbours(output.outputs).map((group) => encodeGroup(group, lossFnOutputType)),
    metrics: output.metrics,
  });
  return toBinary(pb.ForwardBackwardOutputSchema, message);
}

const BYTES_PER_VALUE: Record<number, number> = {
  [pb.DType.DTYPE_FLOAT32]: 4,
  [pb.DType.DTYPE_INT64]: 8,
  [pb.DType.DTYPE_INT32]: 4,
  [pb.DType.DTYPE_BFLOAT16]: 2,
};

function decodeBatch(batch: pb.BatchedTensor, path: string): TensorData[] {
  const offsets = unpackInt64Numbers(batch.offsets, `${path}.offsets`);
  const trailing = batch.trailingShape.map(Number);
  const { data, dtype } = unpackNumbers(batch.data, batch.dtype, path);
  const width = BYTES_PER_VALUE[batch.dtype] ?? 1;
  return offsets.slice(1).map((end, index) => {
    const start = offsets[index]!;
    if (start < 0 || end < start || end > batch.data.byteLength || start % width !== 0) {
      throw new WireFormatError(
        `${path}.offsets`,
        `[${start}, ${end}) is outside of ${batch.data.byteLength} bytes`,
      );
    }
    const values = data.slice(start / width, end / width);
    const stride = sizeOf(trailing);
    return { data: values, dtype, shape: [stride === 0 ? 0 : values.length / stride, ...trailing] };
  });
}

/** `num_datums` where the server set it, else what the first field holds. */
function countDatums(record: pb.ArrayRecord, fields: readonly (readonly [string, TensorData[]])[]): number {
  return Number(record.numDatums) || (fields[0]?.[1].length ?? 0);
}

function decodeRecord(record: pb.ArrayRecord, path: string): LossFnOutput[] {
  const fields = Object.entries(record.fields).map(
    ([name, batch]) => [name, decodeBatch(batch, `${path}.${name}`)] as const,
  );
  const count = countDatums(record, fields);
  for (const [name, tensors] of fields) {
    if (tensors.length !== count) {
      throw new WireFormatError(`${path}.${name}`, `holds ${tensors.length} datums of ${count}`);
    }
  }
  return Array.from({ length: count }, (_, index) =>
    Object.fromEntries(fields.map(([name, tensors]) => [name, tensors[index]!])),
  );
}

/**
 * Reads a finished training request.
 *
 * @throws WireFormatError when the bytes do not hold what their offsets and shapes say.
 */
export function decodeForwardBackwardOutput(bytes: Uint8Array): ForwardBackwardOutput {
  const message = fromBinary(pb.ForwardBackwardOutputSchema, bytes);
  const type = message.lossFnOutputType;
  return {
    loss_fn_output_type: type.slice(type.lastIndexOf(':') + 1) || 'ArrayRecord',
    loss_fn_outputs: message.lossFnOutputs.flatMap((record, index) =>
      decodeRecord(record, `loss_fn_outputs[${index}]`),
    ),
    metrics: { ...message.metrics },
  };
}
