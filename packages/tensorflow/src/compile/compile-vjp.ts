/**
 * `compileVjp(name, fn)`: forward and backward of a function as two compiled ones. Both come from one trace, which is cut
 * where the forward ends; what crosses the cut (the residuals) is chosen so that matrix products are never done twice and
 * as little memory as possible is kept. With `residuals: 'recompute'` nothing is kept: activation checkpointing.
 */
import { deviceDtype, graphBinding, tensorIds } from '../backend.ts';
import type { GraphBinding, NativeBinding } from '../binding.ts';
import { profiled } from '../profile.ts';
import { type Tensor, tf } from '../tf.ts';
import {
  type CompileOptions,
  type Executable,
  execute,
  register,
  uniqueName,
  VariantCache,
} from './compile.ts';
import { nodeOf, outputOf, type Ref, refOf, Trace, type TraceNode } from './trace.ts';
import { flatten, replaceTensors, type Tree } from './tree.ts';

export type ResidualPolicy = 'save' | 'recompute';

export interface VjpOptions extends CompileOptions {
  residuals?: ResidualPolicy;
}

/** A differentiable compiled function of one tensor result. */
export interface CompiledVjp<I extends Tree> {
  /** The result, and what `backward` wants to see again. The caller owns both. */
  forward(inputs: I): { output: Tensor; residuals: Tensor[] };
  /** Gradients of `sum(dy * output)` for the tensors that `wrt` picks, in its order. Inputs must be those of `forward`. */
  backward(inputs: I, residuals: Tensor[], dy: Tensor): Tensor[];
}

/** Ops worth keeping rather than repeating: their work is far above reading their result from memory. */
const EXPENSIVE = new Set([
  'MatMul',
  'BatchMatMul',
  'BatchMatMulV2',
  'Einsum',
  'Softmax',
  'Conv2D',
  'DepthwiseConv2dNative',
  'Cumsum',
  'MatrixTriangularSolve',
  // Ends a grouped matrix product; the pieces before it have no known shape and never cross the cut.
  'EnsureShape',
]);

interface Variant {
  forward: Executable;
  backward: Executable;
  /** Positions in (flattened inputs, dy) that backward reads; others stay unused and are not passed. */
  backwardInputs: number[];
}

/**
 * @param wrt Picks the tensors to differentiate by from the inputs; all must influence the output.
 */
export function compileVjp<I extends Tree>(
  name: string,
  fn: (inputs: I) => Tensor,
  wrt: (inputs: I) => Tensor[],
  options: VjpOptions = {},
): CompiledVjp<I> {
  const cache = new VariantCache<Variant>(options.maxVariants ?? 64, (variant) => {
    graphBinding()?.removeFunction(variant.forward.name);
    graphBinding()?.removeFunction(variant.backward.name);
  });
  const variantFor = (binding: NativeBinding & GraphBinding, inputs: I) => {
    const { tensors, signature } = flatten(inputs, deviceDtype);
    tensorIds(tensors);
    return {
      tensors,
      variant: cache.get(signature, () =>
        profiled('compile', name, () => build(binding, name, inputs, tensors, fn, wrt, options)),
      ),
    };
  };
  return {
    forward(inputs) {
      const binding = graphBinding();
      if (!binding) return { output: tf.tidy(() => fn(inputs)), residuals: [] };
      const { tensors, variant } = variantFor(binding, inputs);
      const [output, ...residuals] = execute(binding, variant.forward, tensors);
      return { output: output!, residuals };
    },
    backward(inputs, residuals, dy) {
      const binding = graphBinding();
      if (!binding) return tf.tidy(() => gradients(fn, wrt, inputs, dy).grads);
      const { tensors, variant } = variantFor(binding, inputs);
      const all = [...tensors, dy];
      return execute(binding, variant.backward, [
        ...variant.backwardInputs.map((i) => all[i]!),
        ...residuals,
      ]);
    },
  };
}

function gradients<I extends Tree>(
  fn: (inputs: I) => Tensor,
  wrt: (inputs: I) => Tensor[],
  inputs: I,
  dy: Tensor,
) {
  return tf.valueAndGrads(() => fn(inputs))(wrt(inputs), dy);
}

function build<I extends Tree>(
  binding: NativeBinding & GraphBinding,
  name: string,
  inputs: I,
  tensors: Tensor[],
  fn: (inputs: I) => Tensor,
  wrt: (inputs: I) => Tensor[],
  options: VjpOptions,
): Variant {
  const trace = new Trace(binding, { matmulPrecision: options.matmulPrecision });
  tf.engine().startScope(name);
  try {
    const addInput = (shape: number[], dtype: number) => {
      const ref = refOf(trace.nodes.length, 0);
      return { ref, tensor: trace.input(shape, dtype) };
    };
    const symbolic = tensors.map((t) => addInput(t.shape, deviceDtype(t)));
    const arranged = replaceTensors(
      inputs,
      symbolic.map((s) => s.tensor),
    );
    const output = trace.run(() => fn(arranged));
    const dy = addInput(output.shape, deviceDtype(output));
    const { value, grads } = trace.run(() => gradients(fn, wrt, arranged, dy.tensor));
    const outputRef = trace.refs([value])[0]!;
    const gradRefs = trace.refs(grads);
    const inputRefs = symbolic.map((s) => s.ref);
    const residuals = chooseResiduals(trace, inputRefs, dy.ref, gradRefs, options.residuals ?? 'save');
    const xla = options.xla ?? false;
    const forward = register(
      binding,
      trace,
      uniqueName(`${name}_forward`),
      inputRefs,
      [outputRef, ...residuals],
      xla,
    );
    const used = usedInputs(trace, [...inputRefs, dy.ref], residuals, gradRefs);
    const all = [...inputRefs, dy.ref];
    const backward = register(
      binding,
      trace,
      uniqueName(`${name}_backward`),
      [...used.map((i) => all[i]!), ...residuals],
      gradRefs,
      xla,
    );
    return { forward, backward, backwardInputs: used };
  } finally {
    tf.engine().endScope();
    trace.dispose();
  }
}

/** Which function inputs the backward part still reads once the residuals are given. */
function usedInputs(trace: Trace, inputs: Ref[], residuals: Ref[], outputs: Ref[]): number[] {
  const stop = new Set(residuals);
  const seen = new Set<Ref>();
  const pending = [...outputs];
  while (pending.length > 0) {
    const ref = pending.pop() as Ref;
    if (stop.has(ref) || seen.has(ref)) continue;
    seen.add(ref);
    pending.push(...trace.nodes[nodeOf(ref)]!.inputs);
  }
  return inputs.flatMap((ref, i) => (seen.has(ref) ? [i] : []));
}

/**
 * Decides what the forward keeps for the backward.
 *
 * A tensor that the backward reads is kept if repeating it would mean an expensive op. Instead of the tensor itself its
 * anchor is kept: the earliest tensor, no larger, from which only cheap ops lead to it, so that all that branches off later
 * is had from one copy. Where the expensive results behind it are smaller, those are kept. Tensors are visited in the
 * order in which what they are made of is computed, and what is kept makes later ones free.
 */
function chooseResiduals(trace: Trace, inputs: Ref[], dy: Ref, grads: Ref[], policy: ResidualPolicy): Ref[] {
  if (policy === 'recompute') return [];
  const { nodes } = trace;
  const afterDy = descendants(nodes, nodeOf(dy));
  const free = new Set(inputs);
  const kept = new Set<Ref>();
  const size = (ref: Ref) =>
    nodes[nodeOf(ref)]!.outputs[outputOf(ref)]!.shape.reduce(
      (a, b) => a * (b < 0 ? Number.POSITIVE_INFINITY : b),
      1,
    );
  const isForward = (ref: Ref) => nodes[nodeOf(ref)]!.kind === 'op' && !afterDy.has(nodeOf(ref));

  /** Expensive results not kept yet that `ref` is made of. */
  const missing = (ref: Ref, found = new Set<Ref>(), visited = new Set<Ref>()): Set<Ref> => {
    if (visited.has(ref) || kept.has(ref) || free.has(ref) || !isForward(ref)) return found;
    visited.add(ref);
    if (EXPENSIVE.has(nodes[nodeOf(ref)]!.op)) found.add(ref);
    else for (const input of nodes[nodeOf(ref)]!.inputs) missing(input, found, visited);
    return found;
  };
  /** The earliest tensor behind `ref`, no larger, that is made of the same expensive results. */
  const anchor = (ref: Ref, behind: number): Ref => {
    let best = ref;
    const visited = new Set<Ref>();
    const visit = (candidate: Ref): void => {
      if (visited.has(candidate) || missing(candidate).size < behind) return;
      visited.add(candidate);
      if (candidate < best && size(candidate) <= size(ref)) best = candidate;
      if (!EXPENSIVE.has(nodes[nodeOf(candidate)]!.op)) nodes[nodeOf(candidate)]!.inputs.forEach(visit);
    };
    visit(ref);
    return best;
  };
  const keepFor = (ref: Ref): void => {
    const found = missing(ref);
    if (found.size === 0) return;
    const start = anchor(ref, found.size);
    const cost = [...found].reduce((total, r) => total + size(r), 0);
    if (size(start) < cost) kept.add(start);
    else for (const r of found) kept.add(r);
    keepFor(ref);
  };

  const reads = backwardReads(nodes, afterDy, grads)
    .filter((ref) => isForward(ref) && missing(ref).size > 0)
    .map((ref) => ({ ref, behind: missing(ref) }))
    .sort((x, y) => Math.max(...x.behind) - Math.max(...y.behind) || x.behind.size - y.behind.size);
  for (const { ref } of reads) keepFor(ref);
  return [...kept];
}

function descendants(nodes: TraceNode[], root: number): Set<number> {
  const result = new Set([root]);
  nodes.forEach((node, index) => {
    if (node.inputs.some((ref) => result.has(nodeOf(ref)))) result.add(index);
  });
  return result;
}

/** Tensors made before `dy` that nodes behind it read, as far as the gradients need those nodes. */
function backwardReads(nodes: TraceNode[], afterDy: Set<number>, grads: Ref[]): Ref[] {
  const reads = new Set<Ref>();
  const seen = new Set<number>();
  const pending = grads.map(nodeOf);
  while (pending.length > 0) {
    const index = pending.pop() as number;
    if (seen.has(index)) continue;
    seen.add(index);
    for (const ref of nodes[index]!.inputs) {
      if (afterDy.has(nodeOf(ref))) pending.push(nodeOf(ref));
      else reads.add(ref);
    }
  }
  return [...reads];
}
