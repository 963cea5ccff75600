/** The compiled layer functions of sampling: over whole prompts, over the next piece of one, and over one position per slot. */
import { compile, type Tensor } from '@anneal/tensorflow';
import { type AttendOptions, attend, attendCausally } from '../layers/attention.ts';
import type { StateTensors } from '../layers/recurrent-state.ts';
import type { BaseModel } from '../models/base-model.ts';
import { after, attendCached, headMajorRows, writeRecent } from './cached-attention.ts';
import type { CachedLayer, KeysAndValues } from './cached-rows.ts';

export type LoraTree = Record<string, { a: Tensor; b: Tensor; scale: number; rows?: Tensor; mask?: Tensor }>;

type LayerTree = {
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: LoraTree;
  rope: { cos: Tensor; sin: Tensor };
};

/** A layer attends, and has a mask, or has a state, and needs to know where rows end. */
export type PrefillTree = LayerTree & { mask?: Tensor; lengths?: Tensor };

/** `past` is [heads, capacity, dim]. */
export type ExtendTree = PrefillTree & { past?: KeysAndValues; state?: StateTensors };

export type DecodeTree = LayerTree & { attention?: DecodeAttention; state?: StateTensors };

export type DecodeAttention = {
  past: KeysAndValues;
  recent: KeysAndValues;
  /** [1, slots, 1, capacity] and [1, slots, 1, window] */
  masks: { past: Tensor; recent: Tensor };
  /** 1 at the step's place in the recent window: [1, 1, window, 1] */
  place: Tensor;
};

type LayerResult = { y: Tensor; cached: CachedLayer };

/** How a layer's positions meet each other and what came before. */
interface Mixing {
  attend(
    q: Tensor,
    fresh: KeysAndValues,
    options: AttendOptions,
  ): { mixed: Tensor; positions: KeysAndValues };
  before?: StateTensors;
  lengths?: Tensor;
  decoding: boolean;
}

export interface LayerFunctions {
  prefill(inputs: PrefillTree): LayerResult;
  extend(inputs: ExtendTree): LayerResult;
  decode(inputs: DecodeTree): LayerResult;
}

export function createLayerFunctions(base: BaseModel, options: { xla: boolean }): LayerFunctions {
  const { architecture, config } = base;
  const scale = config.attentionScale;
  const precision = { matmulPrecision: base.matmulPrecision };
  const run = ({ x, weights, lora, rope }: LayerTree, mixing: Mixing): LayerResult => {
    let cached: CachedLayer = {};
    const y = architecture.layer(config, {
      x,
      weights,
      lora,
      rope,
      attend: (q, k, v, options = {}) => {
        const { mixed, positions } = mixing.attend(q, { k, v }, options);
        cached = { positions };
        return mixed;
      },
      state: {
        before: mixing.before,
        lengths: mixing.lengths,
        keep: (state) => {
          cached = { state };
        },
      },
      decoding: mixing.decoding,
    });
    return { y, cached };
  };
  return {
    prefill: compile(
      'prefill_layer',
      (inputs: PrefillTree) =>
        run(inputs, {
          attend: (q, fresh, { cached = fresh, sinks }) => ({
            mixed: attendCausally(q, fresh.k, fresh.v, inputs.mask!, scale, sinks),
            positions: rowsOf(cached),
          }),
          lengths: inputs.lengths,
          decoding: false,
        }),
      precision,
    ),
    extend: compile(
      'extend_layer',
      (inputs: ExtendTree) =>
        run(inputs, {
          attend: (q, { k, v }, { sinks }) => ({
            mixed: attend(q, after(inputs.past!.k, k), after(inputs.past!.v, v), inputs.mask!, scale, sinks),
            positions: rowsOf({ k, v }),
          }),
          before: inputs.state,
          lengths: inputs.lengths,
          decoding: true,
        }),
      precision,
    ),
    decode: compile(
      'decode_layer',
      (inputs: DecodeTree) =>
        run(inputs, {
          attend: (q, fresh, { sinks }) => {
            const { past, recent, masks, place } = inputs.attention!;
            const positions = {
              k: writeRecent(recent.k, fresh.k, place),
              v: writeRecent(recent.v, fresh.v, place),
            };
            return { mixed: attendCached(q, past, positions, masks, scale, sinks), positions };
          },
          before: inputs.state,
          decoding: true,
        }),
      { ...precision, xla: options.xla && !architecture.hasExperts },
    ),
  };
}

function rowsOf({ k, v }: KeysAndValues): KeysAndValues {
  return { k: headMajorRows(k), v: headMajorRows(v) };
}
