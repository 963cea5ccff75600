/**
 * `compile(name, fn)`: the same function, run as one TensorFlow op. The first call with new shapes traces it; later calls
 * replay. Without the extended addon it simply runs eagerly: same results, slower.
 */
import { deviceDtype, graphBinding, isTracing, tensorIds, wrapTensor } from '../backend.ts';
import type { GraphBinding, NativeBinding } from '../binding.ts';
import { profiled } from '../profile.ts';
import { type Tensor, tf } from '../tf.ts';
import { type MatmulPrecision, nodeOf, outputOf, type Ref, refOf, Trace } from './trace.ts';
import { flatten, replaceTensors, type Tree } from './tree.ts';

export interface CompileOptions {
  /** Compile with XLA: fuses elementwise work; best for memory-bound decoding in fp32. */
  xla?: boolean;
  /** `bf16` runs matrix products in bfloat16 with float32 results; everything else stays float32. */
  matmulPrecision?: MatmulPrecision;
  /** Shapes kept compiled; the least recently used is dropped beyond it. */
  maxVariants?: number;
}

/** A registered function and how to rebuild its result. */
export interface Executable {
  name: string;
  numOutputs: number;
}

const DEFAULT_MAX_VARIANTS = 64;
let counter = 0;

/** A name no other function of this process has; TensorFlow keeps one table per thread's context. */
export function uniqueName(name: string): string {
  return `anneal_${name.replace(/[^A-Za-z0-9_]/g, '_')}_${counter++}`;
}

/** Least-recently-used map of compiled variants, so that shapes seen once do not stay for ever. */
export class VariantCache<V> {
  readonly #entries = new Map<string, V>();
  readonly #limit: number;
  readonly #drop: (value: V) => void;

  constructor(limit: number, drop: (value: V) => void) {
    this.#limit = limit;
    this.#drop = drop;
  }

  get(key: string, make: () => V): V {
    let value = this.#entries.get(key);
    if (value === undefined) value = make();
    else this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size > this.#limit) {
      const [oldest, dropped] = this.#entries.entries().next().value as [string, V];
      this.#entries.delete(oldest);
      this.#drop(dropped);
    }
    return value;
  }

  get size(): number {
    return this.#entries.size;
  }
}

/** Registers the part of a trace that turns `inputs` into `outputs`, and nothing else of it. */
export function register(
  binding: NativeBinding & GraphBinding,
  trace: Trace,
  name: string,
  inputs: Ref[],
  outputs: Ref[],
  xla: boolean,
): Executable {
  const boundary = new Set(inputs);
  const needed = new Set<number>();
  const pending = outputs.filter((ref) => !boundary.has(ref)).map(nodeOf);
  while (pending.length > 0) {
    const index = pending.pop() as number;
    if (needed.has(index)) continue;
    const node = trace.nodes[index]!;
    if (node.kind === 'input')
      throw new Error(`${name}: a part of the trace needs an input it was not given.`);
    needed.add(index);
    pending.push(...node.inputs.filter((ref) => !boundary.has(ref)).map(nodeOf), ...node.control);
  }
  const flat = (refs: Ref[]) => Int32Array.from(refs.flatMap((ref) => [nodeOf(ref), outputOf(ref)]));
  const ops = Int32Array.from([...needed].sort((a, b) => a - b));
  binding.graphFunction(trace.graph, name, ops, flat(inputs), flat(outputs), xla);
  return { name, numOutputs: outputs.length };
}

export function execute(binding: NativeBinding, executable: Executable, inputs: Tensor[]): Tensor[] {
  const { name, numOutputs } = executable;
  const ids = tensorIds(inputs);
  return profiled('call', name, () => binding.executeOp(name, [], ids, numOutputs)).map(wrapTensor);
}

/** Traces `fn` over inputs like `tensors`; the returned refs name inputs and outputs. */
export function traceTree<I extends Tree, O extends Tree>(
  trace: Trace,
  inputs: I,
  tensors: Tensor[],
  fn: (inputs: I) => O,
): { inputRefs: Ref[]; outputRefs: Ref[]; output: O } {
  const placeholders: Ref[] = [];
  const symbolic = tensors.map((tensor) => {
    placeholders.push(refOf(trace.nodes.length, 0));
    return trace.input(tensor.shape, deviceDtype(tensor));
  });
  const output = trace.run(() => fn(replaceTensors(inputs, symbolic)));
  const results = flatten(output).tensors;
  // A function may not hand an input back as it is: TensorFlow wants every output made inside.
  const outputRefs = trace.run(() => trace.refs(results.map((t) => (symbolic.includes(t) ? t.clone() : t))));
  return { inputRefs: placeholders, outputRefs, output };
}

/**
 * Compiles `fn` for each combination of input shapes, dtypes and static values that it is called with.
 *
 * @param name Shows in errors and profiles.
 * @param fn Pure: tensors only from its inputs, no reading of values, random numbers come in as inputs.
 * @returns A function with the same signature; the caller owns the returned tensors.
 */
export function compile<I extends Tree, O extends Tree>(
  name: string,
  fn: (inputs: I) => O,
  options: CompileOptions = {},
): (inputs: I) => O {
  interface Variant {
    executable: Executable;
    output: O;
  }
  const cache = new VariantCache<Variant>(options.maxVariants ?? DEFAULT_MAX_VARIANTS, (variant) =>
    graphBinding()?.removeFunction(variant.executable.name),
  );
  return (inputs) => {
    const binding = graphBinding();
    if (!binding) return runEagerly(fn, inputs);
    if (isTracing())
      throw new Error(`${name} was called while another function is being traced: call the plain function.`);
    const { tensors, signature } = flatten(inputs, deviceDtype);
    tensorIds(tensors);
    const { executable, output } = cache.get(signature, () =>
      profiled('compile', name, () => build(binding, name, inputs, tensors, fn, options)),
    );
    return replaceTensors(output, execute(binding, executable, tensors));
  };
}

function build<I extends Tree, O extends Tree>(
  binding: NativeBinding & GraphBinding,
  name: string,
  inputs: I,
  tensors: Tensor[],
  fn: (inputs: I) => O,
  options: CompileOptions,
): { executable: Executable; output: O } {
  const { matmulPrecision, xla = false } = options;
  const trace = new Trace(binding, { matmulPrecision, skinny: { xla } });
  tf.engine().startScope(name);
  try {
    const { inputRefs, outputRefs, output } = traceTree(trace, inputs, tensors, fn);
    return {
      executable: register(binding, trace, uniqueName(name), inputRefs, outputRefs, xla),
      output,
    };
  } finally {
    tf.engine().endScope();
    trace.dispose();
  }
}

function runEagerly<I extends Tree, O extends Tree>(fn: (inputs: I) => O, inputs: I): O {
  return tf.tidy(() => fn(inputs) as unknown as ReturnType<typeof tf.scalar>) as unknown as O;
}
