/** One decoder layer forward and backward for training: by compiled functions, or by one native call each where those fit the model. */
import {
  compile,
  compileVjp,
  type Tensor,
  type TrainingLayerInputs,
  trainingBackward,
  trainingForward,
} from '@anneal/tensorflow';
import { attendCausally } from '../layers/attention.ts';
import type { RopeTensors } from '../layers/rotary.ts';
import type { BaseModel } from '../models/base-model.ts';
import { hasNativeLayers } from '../models/native-layers.ts';
import { loraOfRows, type PassAdapters } from './pass-adapters.ts';

/** What a layer of a pass is given. */
export interface LayerPass {
  /** [batch, time, hidden] */
  x: Tensor;
  weights: Record<string, Tensor>;
  layer: number;
  adapters: PassAdapters | undefined;
  rope: RopeTensors;
  /** [1, 1, time, time]; made where it is asked for. */
  mask: () => Tensor;
  /** Positions that a query sees, its own included. */
  window: number;
  /** False for the lowest layer, below which nothing is trained. */
  needsDx: boolean;
}

/** Results are the caller's; what comes in stays so. */
export interface LayerRunner {
  /** Bytes that `forward` keeps per token of sequences of this length, its input included. */
  keptBytesPerToken(layer: number, length: number): number;
  /** The layer's result, [batch, time, hidden]. */
  plain(pass: LayerPass): Tensor;
  /** The same, and what `backward` wants to see again: nothing with `recompute`. */
  forward(pass: LayerPass, recompute: boolean): { output: Tensor; residuals: Tensor[] };
  /**
   * Gradients of `sum(dy * output)`: by x where the pass needs it, and by A and B of each distinct adapter's modules, in the order of its
   * parameters.
   */
  backward(
    pass: LayerPass,
    residuals: Tensor[],
    dy: Tensor,
    recompute: boolean,
  ): { dx?: Tensor; grads: Tensor[][] };
}

interface LayerTree {
  [key: string]:
    | Tensor
    | boolean
    | undefined
    | { [key: string]: Tensor | { [key: string]: Tensor | number } };
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: Record<string, { a: Tensor; b: Tensor; scale: number }>;
  adapterOfRow: Tensor | undefined;
  rope: { cos: Tensor; sin: Tensor };
  mask: Tensor;
  needsDx: boolean;
}

/** Any model's layers. */
export function compiledLayers(base: BaseModel): LayerRunner {
  const { architecture, config } = base;
  const options = { matmulPrecision: base.matmulPrecision };
  const layer = ({ x, weights, lora, adapterOfRow, rope, mask }: LayerTree): Tensor =>
    architecture.layer(config, {
      x,
      weights,
      lora: loraOfRows(lora, adapterOfRow),
      rope,
      attend: (q, k, v, options) => attendCausally(q, k, v, mask, config.attentionScale, options?.sinks),
      state: {},
      decoding: false,
    });
  const wrt = ({ x, lora, needsDx }: LayerTree) => [
    ...(needsDx ? [x] : []),
    ...Object.values(lora).flatMap(({ a, b }) => [a, b]),
  ];
  const saving = compileVjp('layer', layer, wrt, { ...options, residuals: 'save' });
  const recomputing = compileVjp('layer', layer, wrt, { ...options, residuals: 'recompute' });
  const plain = compile('layer', (inputs: LayerTree) => ({ y: layer(inputs) }), options);
  const treeOf = ({ x, weights, layer, adapters, rope, mask, needsDx }: LayerPass) =>
    ({
      ...{ x, weights, rope, mask: mask(), needsDx },
      lora: adapters?.stacked(layer) ?? {},
      adapterOfRow: adapters?.adapterOfRow,
    }) as LayerTree;
  return {
    // About the linear maps' outputs, the attention matrix and the layer's input.
    keptBytesPerToken(index, length) {
      const mixed = architecture.mixingSize?.(config, index, length) ?? config.numHeads * length;
      const linears = base
        .layerModules(index)
        .map(({ outFeatures, experts }) => outFeatures * (experts?.perToken ?? 1));
      return 4 * (linears.reduce((sum, width) => sum + width, mixed) + config.hiddenSize);
    },
    plain: (pass) => plain(treeOf(pass)).y,
    forward: (pass, recompute) => (recompute ? recomputing : saving).forward(treeOf(pass)),
    backward(pass, residuals, dy, recompute) {
      const grads = (recompute ? recomputing : saving).backward(treeOf(pass), residuals, dy);
      const dx = pass.needsDx ? { dx: grads.shift()! } : {};
      return { ...dx, grads: pass.adapters?.split(pass.layer, grads) ?? [] };
    },
  };
}

/** Whether {@link nativeLayers} can run this model. */
export function layersTrainNatively(base: BaseModel): boolean {
  const sizes = base.layerModules(0).flatMap(({ inFeatures, outFeatures }) => [inFeatures, outFeatures]);
  // Products in bfloat16 take values in pairs.
  return [...sizes, base.config.headDim].every((size) => size % 2 === 0) && hasNativeLayers(base);
}

/** Layers of Llama's. Positions must be those of text: see {@link LayerPass.rope}. */
export function nativeLayers(base: BaseModel): LayerRunner {
  const { config, matmulPrecision } = base;
  const { numHeads, numKvHeads, headDim, hiddenSize, normEps, attentionScale } = config;
  const inputsOf = ({ x, weights, layer, adapters, rope, window }: LayerPass): TrainingLayerInputs => ({
    ...{ heads: numHeads, kvHeads: numKvHeads, headDim, normEps, attentionScale, window },
    bfloat16Products: matmulPrecision === 'bf16',
    ...{ weights, rope, x },
    adapters: adapters?.own(layer) ?? [{}],
    adapterOfRow: adapters?.adapterOfRow,
  });
  return {
    // As KeptParts in native/training_layer.cc, without the adapters' few.
    keptBytesPerToken(index) {
      const widths = base.layerModules(index).map(({ outFeatures }) => outFeatures);
      const [queries, keys] = [numHeads * headDim, numKvHeads * headDim];
      // Of the modules' results all but those that are added to x, and attention's.
      const factors = widths.reduce((sum, width) => sum + width, 0) - 2 * hiddenSize + queries;
      const floats = 2 * hiddenSize + (base.layers[index]?.qNorm ? queries + keys : 0);
      return 4 * floats + (matmulPrecision === 'bf16' ? 2 : 4) * factors;
    },
    plain: (pass) => trainingForward(inputsOf(pass), false).y,
    forward(pass, recompute) {
      const { y, kept } = trainingForward(inputsOf(pass), !recompute);
      return { output: y, residuals: kept ? [kept] : [] };
    },
    backward(pass, [kept], dy) {
      const { dx, adapters } = trainingBackward(inputsOf(pass), kept, dy, pass.needsDx);
      const distinct = pass.adapters?.distinct ?? [];
      const grads = distinct.map(({ layers }, i) =>
        layers[pass.layer]!.flatMap(({ module: { key } }) => [adapters[i]![key]!.a, adapters[i]![key]!.b]),
      );
      return { ...(dx ? { dx } : {}), grads };
    },
  };
}
