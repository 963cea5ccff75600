/**
 * Records what a tensor function does as a TensorFlow graph, without computing anything: tfjs kernels and gradients run
 * as usual, but their ops become graph nodes, and shapes come from TensorFlow's own inference.
 */
import { type OpSink, tensorIds, withSink, wrapTensor } from '../backend.ts';
import {
  type AnyTypedArray,
  DataType,
  type GraphBinding,
  type GraphNode,
  type NativeBinding,
  type OpAttr,
  type TensorMeta,
} from '../binding.ts';
import { CACHED_ATTENTION, xlaCachedAttention } from '../cached-attention.ts';
import { SCALE_BYTES } from '../int8.ts';
import type { Tensor } from '../tf.ts';
import { dequantise, keepsRows, MOVES_ROWS } from './packed-int8.ts';
import { isSkinny, isSkinnyGroup, skinnyProduct } from './skinny-matmul.ts';

export type MatmulPrecision = 'fp32' | 'bf16';

/** A node of the trace; `inputs` are refs of other nodes' outputs. */
export interface TraceNode {
  kind: 'input' | 'const' | 'op';
  op: string;
  inputs: Ref[];
  outputs: { dtype: number; shape: number[] }[];
  /** Node indices that must run before this one, for ops with side effects. */
  control: number[];
}

/** More outputs than any op has: a split has one per piece. */
const MAX_OUTPUTS = 4096;

/** Names one output of one node: `node * MAX_OUTPUTS + output`. */
export type Ref = number;
export const refOf = (node: number, output: number): Ref => node * MAX_OUTPUTS + output;
export const nodeOf = (ref: Ref): number => Math.floor(ref / MAX_OUTPUTS);
export const outputOf = (ref: Ref): number => ref % MAX_OUTPUTS;

// Traced tensors carry negative ids: the device's are never negative, and tfjs frees only those >= 0. -1 means "on the host".
const idOf = (ref: Ref): number => -(ref + 2);
const refOfId = (id: number): Ref => -id - 2;

/** Ops whose first argument is a list: the attribute that counts it. */
const LIST_INPUT: Record<string, string> = {
  ConcatV2: 'N',
  Pack: 'N',
  AddN: 'N',
  [CACHED_ATTENTION]: 'N',
  Einsum: 'N',
  IdentityN: 'T',
  XlaCustomCallV2: 'operand_dtypes',
};
const MATMULS = new Set(['MatMul', 'BatchMatMul', 'BatchMatMulV2', 'Einsum']);
/** Ops that only move what their first input holds, and the attribute that names its type. */
const MOVES: Record<string, string> = {
  GatherV2: 'Tparams',
  Reshape: 'T',
  Slice: 'T',
  SplitV: 'T',
  Transpose: 'T',
  Unpack: 'T',
};
/** Its pieces' sizes may be values; what is made of them has an unknown shape until EnsureShape says it. */
const SIZED_BY_VALUES = 'SplitV';

export class Trace implements OpSink {
  readonly graph: number;
  readonly nodes: TraceNode[] = [];
  readonly #binding: NativeBinding & GraphBinding;
  readonly #matmulPrecision: MatmulPrecision;
  /** Where products of few rows go to our own op, and how it is called. */
  readonly #skinny: { xla: boolean } | undefined;
  /** float32 tensors that also exist in bfloat16, and which of those were bfloat16 from the start. */
  readonly #bf16 = new Map<Ref, Ref>();
  readonly #widened = new Set<Ref>();
  /** float32 tensors that are kept in 8 bits. */
  readonly #packed = new Map<Ref, Ref>();
  #lastStateful: number | undefined;

  constructor(
    binding: NativeBinding & GraphBinding,
    { matmulPrecision = 'fp32', skinny }: { matmulPrecision?: MatmulPrecision; skinny?: { xla: boolean } },
  ) {
    this.#binding = binding;
    this.#matmulPrecision = matmulPrecision;
    this.#skinny = binding.isUsingGpuDevice() ? undefined : skinny;
    this.graph = binding.graphNew();
  }

  /** Frees the graph; functions made from it live on. */
  dispose(): void {
    this.#binding.graphDelete(this.graph);
  }

  run<T>(body: () => T): T {
    return withSink(this, body);
  }

  /** Adds a function input shaped like a device tensor; returns the tensor to trace with. */
  input(shape: number[], dtype: number): Tensor {
    const kept = dtype === DataType.int8 ? withScales(shape) : shape;
    const known = dtype === DataType.resource ? null : kept;
    const node = this.#push(
      'input',
      'Placeholder',
      [],
      this.#binding.graphPlaceholder(this.graph, dtype, known),
      [],
    );
    if (dtype === DataType.int8) return wrapTensor(this.#meta(this.#unpacked(refOf(node, 0), shape)));
    if (dtype !== DataType.bfloat16) return wrapTensor(this.#meta(refOf(node, 0)));
    const widened = this.#cast(refOf(node, 0), DataType.bfloat16, DataType.float32);
    this.#bf16.set(widened, refOf(node, 0));
    this.#widened.add(widened);
    return wrapTensor(this.#meta(widened));
  }

  refs(tensors: Tensor[]): Ref[] {
    return tensorIds(tensors).map((id) => this.#ref(id));
  }

  addConst(shape: number[], dtype: number, values: AnyTypedArray): number {
    const made = this.#binding.graphConst(this.graph, shape, dtype, values);
    return idOf(refOf(this.#push('const', 'Const', [], made, []), 0));
  }

  addOp(op: string, attrs: OpAttr[], inputIds: number[], numOutputs: number): TensorMeta[] {
    const inputs = inputIds.map((id) => this.#ref(id));
    const inBf16 =
      this.#matmulPrecision === 'bf16' &&
      MATMULS.has(op) &&
      inputs.every((r) => this.#dtype(r) === DataType.float32);
    const packedMove = MOVES_ROWS.has(op) && this.#packedMove(op, attrs, inputs, numOutputs);
    if (packedMove) return packedMove.map((ref) => this.#meta(ref));
    if (op in MOVES && this.#widened.has(inputs[0]!))
      return this.#bf16Move(op, attrs, inputs, numOutputs).map((ref) => this.#meta(ref));
    if (this.#skinny && this.#isSkinny(op, attrs, inputs))
      return [this.#meta(refOf(this.#skinnyMatmul(inputs, this.#skinny.xla), 0))];
    if (op === CACHED_ATTENTION && this.#skinny?.xla)
      return [this.#meta(refOf(this.#cachedAttentionOfXla(inputs), 0))];
    const node = inBf16 ? this.#bf16Matmul(op, attrs, inputs) : this.#add(op, attrs, inputs);
    return Array.from({ length: numOutputs }, (_, output) => this.#meta(refOf(node, output)));
  }

  #isSkinny(op: string, attrs: OpAttr[], inputs: Ref[]): boolean {
    const factors = inputs.map((ref) => this.#output(ref));
    if (isSkinny(op, attrs, factors)) return true;
    const cut = this.nodes[nodeOf(inputs[0] ?? 0)]!;
    if (cut.op !== SIZED_BY_VALUES || factors[0]!.shape[0] !== -1) return false;
    const rows = this.#shape(cut.inputs[0]!)[0]!;
    return isSkinnyGroup(op, attrs, factors, { rows, groups: cut.outputs.length });
  }

  /** A frozen matrix is read as it is kept; x is float32 and so is the result. */
  #skinnyMatmul([x, w]: Ref[], xla: boolean): number {
    const kept = this.#packed.get(w!) ?? (this.#widened.has(w!) ? this.#narrow(w!) : w!);
    const { op, attrs } = skinnyProduct(this.#binding, this.#output(x!), this.#output(kept), xla);
    return this.#add(op, attrs, [x!, kept]);
  }

  #cachedAttentionOfXla(inputs: Ref[]): number {
    const { op, attrs } = xlaCachedAttention(
      this.#binding,
      inputs.map((ref) => this.#shape(ref)),
    );
    return this.#add(op, attrs, inputs);
  }

  #unpacked(packed: Ref, shape: number[]): Ref {
    const adder = {
      add: (op: string, attrs: OpAttr[], inputs: Ref[]) => refOf(this.#add(op, attrs, inputs), 0),
      int32: (values: number[]) => this.#int32(values),
    };
    const widened = dequantise(this.#binding, adder, packed, shape);
    this.#packed.set(widened, packed);
    return widened;
  }

  /** Moves rows in 8 bits where the op leaves them whole; undefined where it does not, or its input is no such matrix. */
  #packedMove(op: string, attrs: OpAttr[], inputs: Ref[], numOutputs: number): Ref[] | undefined {
    const [moved, ...rest] = inputs as [Ref, ...Ref[]];
    const packed = this.#packed.get(moved);
    if (packed === undefined) return undefined;
    const shape = this.#shape(moved);
    // What the op makes of the float32 form tells the shape; that node is left out when nothing reads it.
    const node = this.#add(op, attrs, inputs);
    const made = Array.from({ length: numOutputs }, (_, output) => this.#shape(refOf(node, output)));
    const isWhole =
      op === 'Reshape'
        ? keepsRows(shape, made[0]!)
        : made.every((to) => to.at(-1) === shape.at(-1) && to.length >= 2);
    if (!isWhole) return undefined;
    const typed = withType(attrs, MOVES[op]!, DataType.int8);
    const others = op === 'Reshape' ? [this.#int32(withScales(made[0]!))] : rest;
    const moves = this.#add(op, typed, [packed, ...others]);
    return made.map((to, output) => this.#unpacked(refOf(moves, output), to));
  }

  #int32(values: number[]): Ref {
    const made = this.#binding.graphConst(
      this.graph,
      [values.length],
      DataType.int32,
      Int32Array.from(values),
    );
    return refOf(this.#push('const', 'Const', [], made, []), 0);
  }

  #bf16Matmul(op: string, attrs: OpAttr[], inputs: Ref[]): number {
    const typed = withType(attrs, 'T', DataType.bfloat16);
    const narrow = inputs.map((ref) => this.#narrow(ref));
    return nodeOf(this.#widen(refOf(this.#add(op, typed, narrow), 0)));
  }

  /** Moves bfloat16 and widens what comes of it; the widening is left out of functions where only products read it. */
  #bf16Move(op: string, attrs: OpAttr[], [moved, ...rest]: Ref[], numOutputs: number): Ref[] {
    const typed = withType(attrs, MOVES[op]!, DataType.bfloat16);
    const node = this.#add(op, typed, [this.#narrow(moved!), ...rest]);
    return Array.from({ length: numOutputs }, (_, output) => {
      const narrow = refOf(node, output);
      const widened = this.#widen(narrow);
      this.#bf16.set(widened, narrow);
      this.#widened.add(widened);
      return widened;
    });
  }

  /** A float32 tensor's bfloat16 form, made once. */
  #narrow(ref: Ref): Ref {
    const known = this.#bf16.get(ref);
    if (known !== undefined) return known;
    const cast = this.#cast(ref, DataType.float32, DataType.bfloat16);
    this.#bf16.set(ref, cast);
    return cast;
  }

  #widen(ref: Ref): Ref {
    return this.#cast(ref, DataType.bfloat16, DataType.float32);
  }

  #cast(ref: Ref, from: number, to: number): Ref {
    const type = this.#binding.TF_ATTR_TYPE;
    const attrs = [
      { name: 'SrcT', type, value: from },
      { name: 'DstT', type, value: to },
    ];
    return refOf(this.#add('Cast', attrs, [ref]), 0);
  }

  #add(op: string, attrs: OpAttr[], inputs: Ref[]): number {
    const stateful = inputs.some((ref) => this.#dtype(ref) === DataType.resource);
    const control = stateful && this.#lastStateful !== undefined ? [this.#lastStateful] : [];
    const made = this.#binding.graphOp(
      this.graph,
      op,
      this.#attrs(op, attrs),
      this.#pack(op, attrs, inputs),
      Int32Array.from(control),
    );
    const node = this.#push('op', op, inputs, made, control);
    // In-place writes and reads of a variable keep the program's order.
    if (stateful) this.#lastStateful = node;
    return node;
  }

  /** A list's length is inferred from the list; setting it as well is refused by TensorFlow. */
  #attrs(op: string, attrs: OpAttr[]): OpAttr[] {
    const counter = LIST_INPUT[op];
    return counter ? attrs.filter((attr) => attr.name !== counter) : attrs;
  }

  #pack(op: string, attrs: OpAttr[], inputs: Ref[]): Int32Array {
    const packed: number[] = [];
    const list = LIST_INPUT[op];
    const listLength = list
      ? op === 'ConcatV2'
        ? inputs.length - 1
        : Number(attrs.find((a) => a.name === 'N')?.value ?? inputs.length)
      : 0;
    if (list) packed.push(listLength);
    inputs.forEach((ref, i) => {
      if (i >= listLength) packed.push(0);
      packed.push(nodeOf(ref), outputOf(ref));
    });
    return Int32Array.from(packed);
  }

  #push(kind: TraceNode['kind'], op: string, inputs: Ref[], made: GraphNode, control: number[]): number {
    const unknown = op === SIZED_BY_VALUES || inputs.some((ref) => this.#shape(ref).includes(-1));
    const outputs = made.outputs.map(({ dtype, shape }) => {
      if (dtype !== DataType.resource && (shape === null || (shape.includes(-1) && !unknown))) {
        throw new Error(
          `${op} has a shape that depends on values ([${shape?.join() ?? 'unknown rank'}]): compiled functions need static shapes.`,
        );
      }
      return { dtype, shape: shape ?? [] };
    });
    this.nodes.push({ kind, op, inputs, outputs, control });
    return made.op;
  }

  #ref(id: number): Ref {
    if (id >= 0) throw new Error('A traced function used a tensor from outside: pass it as an input.');
    return refOfId(id);
  }

  #dtype(ref: Ref): number {
    return this.#output(ref).dtype;
  }

  #shape(ref: Ref): number[] {
    return this.#output(ref).shape;
  }

  #output(ref: Ref): { dtype: number; shape: number[] } {
    return this.nodes[nodeOf(ref)]!.outputs[outputOf(ref)]!;
  }

  #meta(ref: Ref): TensorMeta {
    const { dtype, shape } = this.nodes[nodeOf(ref)]!.outputs[outputOf(ref)]!;
    return { id: idOf(ref), shape, dtype };
  }
}

function withType(attrs: OpAttr[], name: string, dtype: number): OpAttr[] {
  return attrs.map((attr) => (attr.name === name ? { ...attr, value: dtype } : attr));
}

/** The shape of a matrix in 8 bits: each row ends with its scale. */
function withScales(shape: number[]): number[] {
  return [...shape.slice(0, -1), (shape.at(-1) as number) + SCALE_BYTES];
}
