/** Tokens through all layers of a model in one call, where its layers are Llama's: see native/fused_layers.h. */
import { tensorIds, wrapTensor } from './backend.ts';
import { DataType, type FusedLayersCall } from './binding.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import { idsOrNone, MODULES } from './tensor-ids.ts';
import type { Tensor } from './tf.ts';

const WEIGHTS = ['attnNorm', 'mlpNorm', ...MODULES, 'qBias', 'kBias', 'vBias', 'qNorm', 'kNorm'];

/** Tensors of one layer by name; absent ones do not take part. */
export type NamedTensors = Readonly<Record<string, Tensor | undefined>>;

/** {@link FusedLayersCall} with tensors where those are as good as ids. */
export type FusedLayersInputs = Omit<FusedLayersCall, 'embed' | 'cache'> & {
  embed: Tensor;
  /** Per layer: past keys and values, recent keys and values; no past where nobody looks there. */
  cache: (Tensor | undefined)[];
};

/**
 * Ids for `weights` of a call, good while the tensors live.
 * @param layers Per layer `attnNorm`, `mlpNorm`, `q`, `k`, `v`, `o`, `gate`, `up`, `down`, and where there are such `qBias`, `kBias`, `vBias`,
 *   `qNorm`, `kNorm`
 */
export function layerWeightIds(layers: readonly NamedTensors[]): Int32Array {
  return idsOrNone(layers.flatMap((layer) => WEIGHTS.map((name) => layer[name])));
}

/**
 * Tokens from their embeddings to what leaves the last layer.
 * @returns [rows, hidden] or [rows, 1, hidden]; the rows' keys and values are written into the recent ones.
 */
export function fusedLayers({ embed, cache, ...rest }: FusedLayersInputs): Tensor {
  const [table] = tensorIds([embed]) as [number];
  const call = { ...rest, embed: table, cache: idsOrNone(cache) };
  const id = profiled('op', 'fused_layers', () => nativeCalls().fusedLayers(call));
  const [rows, hidden] = [rest.tokens.length, rest.sizes[0]!];
  const shape = rest.asSteps ? [rows, 1, hidden] : [rows, hidden];
  return wrapTensor({ id, shape, dtype: DataType.float32 });
}
