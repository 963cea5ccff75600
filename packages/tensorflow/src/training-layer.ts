/** A layer of Llama's forward and backward in one call each: see native/training_layer.h. */
import { wrapTensor } from './backend.ts';
import { DataType, type TrainingLayerCall } from './binding.ts';
import { layerWeightIds, type NamedTensors } from './fused-layers.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import { idsOrNone, MODULES } from './tensor-ids.ts';
import type { Tensor } from './tf.ts';

export interface TrainingLayerInputs {
  heads: number;
  kvHeads: number;
  headDim: number;
  normEps: number;
  attentionScale: number;
  /** Positions that a query sees, its own included. */
  window: number;
  bfloat16Products: boolean;
  /** As for {@link layerWeightIds}. */
  weights: NamedTensors;
  /** Of each adapter, by module: A [rank, in] and B [out, rank]. */
  adapters: readonly Readonly<Record<string, { a: Tensor; b: Tensor; scale: number }>>[];
  /** int32 [batch]; absent: all have the first. */
  adapterOfRow: Tensor | undefined;
  /** [1, time, headDim / 2] */
  rope: { cos: Tensor; sin: Tensor };
  /** [batch, time, hidden] */
  x: Tensor;
}

/** The layer's result as x; with `keeps` also what {@link trainingBackward} wants. The caller owns both. */
export function trainingForward(inputs: TrainingLayerInputs, keeps: boolean): { y: Tensor; kept?: Tensor } {
  const call = callOf(inputs);
  const [y, kept, keptFloats] = profiled('call', 'layer_forward', () =>
    nativeCalls().trainingForward(call, keeps),
  );
  return {
    y: float32(y!, inputs.x.shape),
    ...(kept === undefined ? {} : { kept: float32(kept, [keptFloats!]) }),
  };
}

/**
 * Gradients of `sum(dy * y)`, by x where `needsDx` and by A and B of each adapter's modules.
 * @param kept Of the forward pass with the same inputs; it is done again where this is absent.
 */
export function trainingBackward(
  inputs: TrainingLayerInputs,
  kept: Tensor | undefined,
  dy: Tensor,
  needsDx: boolean,
): { dx?: Tensor; adapters: Record<string, { a: Tensor; b: Tensor }>[] } {
  const call = callOf(inputs);
  const [keptId, dyId] = idsOrNone([kept, dy]) as unknown as [number, number];
  const ids = profiled('call', 'layer_backward', () =>
    nativeCalls().trainingBackward(call, keptId, dyId, needsDx),
  );
  const dx = needsDx ? { dx: float32(ids.shift()!, inputs.x.shape) } : {};
  const adapters = inputs.adapters.map((modules) =>
    Object.fromEntries(
      MODULES.filter((key) => modules[key]).map((key) => {
        const { a, b } = modules[key]!;
        return [key, { a: float32(ids.shift()!, a.shape), b: float32(ids.shift()!, b.shape) }];
      }),
    ),
  );
  return { ...dx, adapters };
}

function callOf(inputs: TrainingLayerInputs): TrainingLayerCall {
  const { heads, kvHeads, headDim, window, weights, adapterOfRow, rope, x } = inputs;
  const [batch, time, hidden] = x.shape as [number, number, number];
  const intermediate = weights.gate!.shape[0] as number;
  const modules = inputs.adapters.flatMap((adapter) => MODULES.map((key) => adapter[key]));
  const [rows, cos, sin, xId] = idsOrNone([adapterOfRow, rope.cos, rope.sin, x]);
  return {
    sizes: Int32Array.of(
      ...[hidden, heads, kvHeads, headDim, intermediate],
      ...[batch, time, Math.min(window, time)],
    ),
    normEps: inputs.normEps,
    attentionScale: inputs.attentionScale,
    bfloat16Products: inputs.bfloat16Products,
    weights: layerWeightIds([weights]),
    modules: idsOrNone(modules.flatMap((module) => [module?.a, module?.b])),
    ranks: Int32Array.from(modules, (module) => module?.a.shape[0] ?? 0),
    scales: Float32Array.from(modules, (module) => module?.scale ?? 0),
    adapterOfRow: rows!,
    cos: cos!,
    sin: sin!,
    x: xId!,
  };
}

function float32(id: number, shape: number[]): Tensor {
  return wrapTensor({ id, shape, dtype: DataType.float32 });
}
