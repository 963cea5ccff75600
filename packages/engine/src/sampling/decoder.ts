/** The compiled functions of sampling: prefill of prompts, one decode step, and what is read off the logits. */
import { compile, statelessUniform, type Tensor, type Tree, tf } from '@anneal/tensorflow';
import { attend, causalMaskValues, MASKED, softmaxWithSinks } from '../layers/attention.ts';
import { embed } from '../layers/embedding.ts';
import { type LoraTensors, linear } from '../layers/linear.ts';
import type { StackedAdapters } from '../lora/adapter-stack.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type KvCache, type PrefilledRows, RECENT } from './kv-cache.ts';
import type { PromptRows } from './prompt-rows.ts';

type LoraTree = Record<string, { a: Tensor; b: Tensor; scale: number; rows?: Tensor; mask?: Tensor }>;

interface PrefillTree {
  [key: string]: Tree;
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: LoraTree;
  rope: { cos: Tensor; sin: Tensor };
  mask: Tensor;
}

interface ExtendTree extends PrefillTree {
  /** [heads, capacity, dim] */
  past: { k: Tensor; v: Tensor };
}

interface DecodeTree {
  [key: string]: Tree;
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: LoraTree;
  rope: { cos: Tensor; sin: Tensor };
  past: { k: Tensor; v: Tensor };
  recent: { k: Tensor; v: Tensor };
  /** [1, slots, 1, capacity] and [1, slots, 1, RECENT] */
  masks: { past: Tensor; recent: Tensor };
  /** 1 at the step's place in the recent window: [1, 1, RECENT, 1] */
  place: Tensor;
}

interface HeadTree {
  [key: string]: Tree;
  /** [slots, 1, hidden], before the final norm */
  x: Tensor;
  norm: Tensor;
  weight: Tensor;
  lora: { a: Tensor; b: Tensor; scale: number } | undefined;
  /** [slots, 1]; ignored for greedy rows */
  temperature: Tensor;
  /** int32 [slots, 2]: what each row's random numbers are made from */
  seeds: Tensor;
  /** Whether any row draws by temperature alone. */
  draws: boolean;
  /** Best candidates to return per row; 0 for none. */
  candidates: number;
}

/** What is read per row after a step. */
export interface HeadOutput {
  /** [slots, vocab], on the device; the caller frees it. */
  logits: Tensor;
  argmax: Int32Array;
  /** An id drawn by temperature alone; empty where none was asked for. */
  drawn: Int32Array;
  /** Logits of `argmax` and `drawn`. */
  argmaxLogit: Float32Array;
  drawnLogit: Float32Array;
  /** log Σ exp(logits), untempered. */
  logTotal: Float32Array;
  /** Σ exp((logit − best) / temperature). */
  mass: Float32Array;
  /** [slots, candidates], best first. */
  topIds: Int32Array;
  topLogits: Float32Array;
}

export class Decoder {
  readonly #base: BaseModel;
  readonly #embed: (inputs: { ids: Tensor; table: Tensor }) => { x: Tensor };
  readonly #prefillLayer: (inputs: PrefillTree) => { y: Tensor; k: Tensor; v: Tensor };
  readonly #extendLayer: (inputs: ExtendTree) => { y: Tensor; k: Tensor; v: Tensor };
  readonly #decodeLayer: (inputs: DecodeTree) => { y: Tensor; k: Tensor; v: Tensor };
  readonly #head: (inputs: HeadTree) => { [key: string]: Tensor };

  constructor(base: BaseModel, options: { xla: boolean }) {
    this.#base = base;
    const { architecture, config } = base;
    const scale = config.attentionScale;
    const precision = { matmulPrecision: base.matmulPrecision };
    this.#embed = compile(
      'sample_embed',
      ({ ids, table }) => ({ x: embed(ids, table, config.embedScale) }),
      precision,
    );
    this.#prefillLayer = compile(
      'prefill_layer',
      ({ x, weights, lora, rope, mask }: PrefillTree) => {
        let cached: { k: Tensor; v: Tensor } | undefined;
        const y = architecture.layer(config, {
          x,
          weights,
          lora,
          rope,
          attend: (q, k, v, options) => {
            const kept = options?.cached ?? { k, v };
            cached = { k: headMajorRows(kept.k), v: headMajorRows(kept.v) };
            return attend(q, k, v, mask, scale, options?.sinks);
          },
          decoding: false,
        });
        return { y, ...cached! };
      },
      precision,
    );
    this.#extendLayer = compile(
      'extend_layer',
      ({ x, weights, lora, rope, mask, past }: ExtendTree) => {
        let cached: { k: Tensor; v: Tensor } | undefined;
        const y = architecture.layer(config, {
          x,
          weights,
          lora,
          rope,
          attend: (q, k, v, options) => {
            cached = { k: headMajorRows(k), v: headMajorRows(v) };
            return attend(q, after(past.k, k), after(past.v, v), mask, scale, options?.sinks);
          },
          decoding: true,
        });
        return { y, ...cached! };
      },
      precision,
    );
    this.#decodeLayer = compile(
      'decode_layer',
      ({ x, weights, lora, rope, past, recent, masks, place }: DecodeTree) => {
        let cached: { k: Tensor; v: Tensor } | undefined;
        const y = architecture.layer(config, {
          x,
          weights,
          lora,
          rope,
          attend: (q, k, v, options) => {
            cached = { k: writeRecent(recent.k, k, place), v: writeRecent(recent.v, v, place) };
            return attendCached(q, past, cached, masks, scale, options?.sinks);
          },
          decoding: true,
        });
        return { y, ...cached! };
      },
      { ...precision, xla: options.xla && !architecture.hasExperts },
    );
    this.#head = compile('sample_head', (inputs: HeadTree) => headOutputs(inputs, base), precision);
  }

  get vocabSize(): number {
    return this.#base.config.vocabSize;
  }

  /**
   * Runs prompts through the layers.
   * @param ids int32 [rows, width], padded at the end
   * @returns Hidden states before the final norm [rows, width, hidden], and keys and values for the cache.
   */
  prefill(ids: Tensor, adapters: StackedAdapters): { x: Tensor; cached: PrefilledRows } {
    const width = ids.shape[1] as number;
    const masks = perKey(this.#base.attention, ({ window = width }) => ({
      key: Math.min(window, width),
      make: () => ({ mask: tf.tensor4d(causalMaskValues(width, window), [1, 1, width, width]) as Tensor }),
    }));
    const cached: PrefilledRows = { k: [], v: [], width };
    let { x } = this.#embed({ ids, table: this.#base.embed });
    this.#base.layers.forEach((weights, layer) => {
      const lora = adapters.layers[layer] as LoraTree;
      const { y, k, v } = this.#prefillLayer({
        x,
        weights,
        lora,
        rope: this.#base.attention[layer]!.rope.upTo(width) as PrefillTree['rope'],
        mask: masks[layer]!.mask,
      });
      x.dispose();
      x = y;
      cached.k.push(k);
      cached.v.push(v);
    });
    tf.dispose(masks);
    return { x, cached };
  }

  /**
   * Runs the next piece of one prompt through the layers.
   * @param ids int32 [1, width], padded at the end
   * @param before What the prompt begins with: rows of which the first `length` count
   * @returns As {@link prefill}, of the new positions.
   */
  extend(
    ids: Tensor,
    before: { rows: PromptRows; length: number },
    adapters: StackedAdapters,
  ): { x: Tensor; cached: PrefilledRows } {
    const width = ids.shape[1] as number;
    const { rows, length } = before;
    const masks = perKey(this.#base.attention, ({ window }) => ({
      key: window,
      make: () => ({
        mask: tf.tensor4d(extensionMask(rows.capacity, length, width, window), [
          1,
          1,
          width,
          rows.capacity + width,
        ]) as Tensor,
      }),
    }));
    const ropes = perKey(this.#base.attention, ({ rope }) => ({
      key: rope,
      make: () => rope.from(length, width) as PrefillTree['rope'],
    }));
    const cached: PrefilledRows = { k: [], v: [], width };
    let { x } = this.#embed({ ids, table: this.#base.embed });
    this.#base.layers.forEach((weights, layer) => {
      const { y, k, v } = this.#extendLayer({
        x,
        weights,
        lora: adapters.layers[layer] as LoraTree,
        rope: ropes[layer]!,
        mask: masks[layer]!.mask,
        past: { k: rows.k[layer]!, v: rows.v[layer]! },
      });
      x.dispose();
      x = y;
      cached.k.push(k);
      cached.v.push(v);
    });
    tf.dispose({ masks, ropes });
    return { x, cached };
  }

  /**
   * One token for every slot.
   * @param tokens One id per slot
   * @returns Hidden states before the final norm, [slots, 1, hidden]; the cache has advanced.
   */
  step(tokens: Int32Array, cache: KvCache, adapters: StackedAdapters): Tensor {
    const { slots } = cache;
    const positions = Array.from({ length: slots }, (_, slot) => cache.length(slot));
    const inputs = {
      ids: tf.tensor2d(tokens, [slots, 1], 'int32') as Tensor,
      masks: perKey(this.#base.attention, ({ window }) => ({
        key: window,
        make: () => maskTensors(cache, window),
      })),
      ropes: perKey(this.#base.attention, ({ rope }) => ({
        key: rope,
        make: () => rope.at(positions) as DecodeTree['rope'],
      })),
      place: tf.tensor4d(
        Float32Array.from({ length: RECENT }, (_, i) => (i === cache.step ? 1 : 0)),
        [1, 1, RECENT, 1],
      ) as Tensor,
    };
    let { x } = this.#embed({ ids: inputs.ids, table: this.#base.embed });
    const recent: { k: Tensor[]; v: Tensor[] } = { k: [], v: [] };
    this.#base.layers.forEach((weights, layer) => {
      const { y, k, v } = this.#decodeLayer({
        x,
        weights,
        lora: adapters.layers[layer] as LoraTree,
        rope: inputs.ropes[layer]!,
        past: { k: cache.past.k[layer]!, v: cache.past.v[layer]! },
        recent: { k: cache.recent.k[layer]!, v: cache.recent.v[layer]! },
        masks: inputs.masks[layer]!,
        place: inputs.place,
      });
      x.dispose();
      x = y;
      recent.k.push(k);
      recent.v.push(v);
    });
    tf.dispose(inputs);
    cache.advance(recent);
    return x;
  }

  /**
   * Logits of the rows' next token and what sampling needs of them. Frees nothing but its own.
   * @param seeds [rows, 2]
   * @param draws Whether any row draws by temperature alone.
   * @param candidates Best tokens to return per row.
   */
  head(
    x: Tensor,
    head: LoraTensors | undefined,
    {
      temperature,
      seeds,
      draws,
      candidates,
    }: { temperature: Float32Array; seeds: Int32Array; draws: boolean; candidates: number },
  ): HeadOutput {
    const rows = x.shape[0] as number;
    const inputs = {
      temperature: tf.tensor2d(temperature, [rows, 1]) as Tensor,
      seeds: tf.tensor2d(seeds, [rows, 2], 'int32') as Tensor,
    };
    const out = this.#head({
      x,
      norm: this.#base.finalNorm,
      weight: this.#base.head,
      lora: head as HeadTree['lora'],
      ...inputs,
      draws,
      candidates,
    });
    const floats = (name: string) =>
      out[name] ? (out[name].dataSync() as Float32Array) : new Float32Array(0);
    const ints = (name: string) => (out[name] ? (out[name].dataSync() as Int32Array) : new Int32Array(0));
    const result: HeadOutput = {
      logits: out.logits!,
      argmax: ints('argmax'),
      drawn: ints('drawn'),
      argmaxLogit: floats('argmaxLogit'),
      drawnLogit: floats('drawnLogit'),
      logTotal: floats('logTotal'),
      mass: floats('mass'),
      topIds: ints('topIds'),
      topLogits: floats('topLogits'),
    };
    const { logits: _, ...read } = out;
    tf.dispose([inputs.temperature, inputs.seeds, ...Object.values(read)]);
    return result;
  }
}

/** One value per layer; layers whose keys are equal share theirs. */
function perKey<L, V>(layers: L[], entryOf: (layer: L) => { key: unknown; make: () => V }): V[] {
  const made = new Map<unknown, V>();
  return layers.map((layer) => {
    const { key, make } = entryOf(layer);
    const value = made.has(key) ? (made.get(key) as V) : make();
    made.set(key, value);
    return value;
  });
}

function maskTensors(cache: KvCache, window: number | undefined): DecodeTree['masks'] {
  const { slots, capacity } = cache;
  const { past, recent } = cache.masks(window);
  return {
    past: tf.tensor4d(past, [1, slots, 1, capacity]),
    recent: tf.tensor4d(recent, [1, slots, 1, RECENT]),
  };
}

/** [rows, kvHeads, width, dim] → [kvHeads, rows · width, dim], as the cache gathers from it. */
function headMajorRows(x: Tensor): Tensor {
  const [rows, kvHeads, width, dim] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [kvHeads, rows * width, dim]);
}

/** [heads, capacity, dim] and then, for one row, [1, heads, width, dim]: [1, heads, capacity + width, dim]. */
function after(past: Tensor, fresh: Tensor): Tensor {
  return tf.concat([tf.expandDims(past, 0), fresh], 2);
}

/** For queries at `length` and on: 0 where they may look, among kept and then new positions, {@link MASKED} elsewhere. */
function extensionMask(
  capacity: number,
  length: number,
  width: number,
  window = Number.POSITIVE_INFINITY,
): Float32Array {
  const columns = capacity + width;
  const values = new Float32Array(width * columns).fill(MASKED);
  for (let row = 0; row < width; row++) {
    const first = Math.max(0, length + row + 1 - window);
    const at = row * columns;
    values.fill(0, at + Math.min(first, length), at + length);
    values.fill(0, at + capacity + Math.max(0, first - length), at + capacity + row + 1);
  }
  return values;
}

/** Puts this step's keys or values [slots, kvHeads, 1, dim] at their place in the window [kvHeads, slots, RECENT, dim]. */
function writeRecent(recent: Tensor, fresh: Tensor, place: Tensor): Tensor {
  return tf.add(tf.mul(recent, tf.sub(1, place)), tf.mul(tf.transpose(fresh, [1, 0, 2, 3]), place));
}

/**
 * Attention of one query per slot over past and recent keys, without joining them.
 * @param q [slots, heads, 1, dim]
 * @param sinks [heads]
 * @returns [slots, heads, 1, value dim]
 */
function attendCached(
  q: Tensor,
  past: { k: Tensor; v: Tensor },
  recent: { k: Tensor; v: Tensor },
  masks: { past: Tensor; recent: Tensor },
  scale: number,
  sinks: Tensor | undefined,
): Tensor {
  const [slots, heads, , dim] = q.shape as [number, number, number, number];
  const kvHeads = past.k.shape[0] as number;
  // The cache has heads first, so heads play the batch here and the slots' query groups the heads.
  const grouped = tf.transpose(tf.reshape(q, [slots, kvHeads, heads / kvHeads, dim]), [1, 0, 2, 3]);
  const scores = tf.concat(
    [
      tf.add(scoresOf(grouped, past.k, scale), masks.past),
      tf.add(scoresOf(grouped, recent.k, scale), masks.recent),
    ],
    -1,
  );
  const capacity = past.k.shape[2] as number;
  const probabilities = sinks
    ? softmaxWithSinks(scores, tf.reshape(sinks, [kvHeads, 1, heads / kvHeads, 1]), capacity + RECENT)
    : tf.softmax(scores);
  const [onPast, onRecent] = tf.split(probabilities, [capacity, RECENT], -1) as [Tensor, Tensor];
  const mixed = tf.add(
    tf.matMul(onPast as never, past.v as never),
    tf.matMul(onRecent as never, recent.v as never),
  );
  const valueDim = past.v.shape[3] as number;
  return tf.reshape(tf.transpose(mixed, [1, 0, 2, 3]), [slots, heads, 1, valueDim]);
}

/** [kvHeads, slots, group, dim] × [kvHeads, slots, keys, dim] → [kvHeads, slots, group, keys] */
function scoresOf(q: Tensor, k: Tensor, scale: number): Tensor {
  return tf.matMul(tf.mul(q, scale) as never, k as never, false, true);
}

function headOutputs(
  { x, norm, weight, lora, temperature, seeds, draws, candidates }: HeadTree,
  base: BaseModel,
): { [key: string]: Tensor } {
  const [rows, , hidden] = x.shape as [number, number, number];
  const h = base.architecture.finalNorm(base.config, tf.reshape(x, [rows, hidden]), norm);
  const vocab = weight.shape[0] as number;
  const logits = tf.reshape(linear(tf.reshape(h, [rows, 1, hidden]), weight, lora), [rows, vocab]);
  const best = tf.max(logits, -1, true);
  const shifted = tf.sub(logits, best);
  const outputs: { [key: string]: Tensor } = {
    logits,
    argmax: tf.expandDims(tf.argMax(logits, -1), 1),
    argmaxLogit: best,
    logTotal: tf.add(tf.log(tf.sum(tf.exp(shifted), -1, true)), best),
  };
  if (draws) {
    outputs.drawn = gumbelMax(tf.div(shifted, temperature), seeds);
    outputs.drawnLogit = tf.gather(logits, outputs.drawn as never, 1, 1);
  }
  if (candidates > 0) {
    const top = tf.topk(logits, candidates, true);
    outputs.topIds = top.indices;
    outputs.topLogits = top.values;
    outputs.mass = tf.sum(tf.exp(tf.div(shifted, temperature)), -1, true);
  }
  return outputs;
}

/**
 * Draws one id per row from softmax(scores): argmax of scores plus Gumbel noise (Gumbel 1954). Noise belongs to the id, so
 * that rounding, which differs with the batch, moves a draw only where two ids nearly tie; with running sums it would
 * where any of tens of thousands of borders shifts.
 * @param scores [rows, vocab]
 * @returns int32 [rows, 1]
 */
function gumbelMax(scores: Tensor, seeds: Tensor): Tensor {
  const [rows, vocab] = scores.shape as [number, number];
  const noise = Array.from({ length: rows }, (_, row) => {
    const uniform = statelessUniform([2, vocab], tf.reshape(tf.slice(seeds, [row, 0], [1, 2]), [2]));
    const [coarse, fine] = tf.unstack(uniform) as [Tensor, Tensor];
    // float32 uniforms are multiples of 2⁻²³: the second fills in the digits that the smallest, which decide, lack.
    const exponential = tf.neg(tf.log1p(tf.neg(tf.add(coarse, tf.mul(fine, 2 ** -23)))));
    return tf.neg(tf.log(tf.maximum(exponential, 1e-30)));
  });
  return tf.expandDims(tf.argMax(tf.add(scores, tf.stack(noise)), -1), 1);
}
