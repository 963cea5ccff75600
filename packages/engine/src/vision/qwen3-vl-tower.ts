/**
 * The vision tower of Qwen3-VL and Qwen3.5: patches are embedded, learned positions (interpolated from a square) added, blocks
 * of attention over the whole image with two-dimensional rotary follow, and each square of patches is merged into one feature.
 * "Deepstack" features are merged after earlier blocks (Meng et al. 2024, arXiv:2406.04334). As transformers' modeling_qwen3_vl.py.
 */
import type { SafetensorsReader } from '@anneal/safetensors';
import { compile, type MatmulPrecision, type Tensor, tf } from '@anneal/tensorflow';
import { attend, MASKED, mergeHeads, splitHeads } from '../layers/attention.ts';
import { geluTanh } from '../layers/gated-mlp.ts';
import { layerNorm } from '../layers/layer-norm.ts';
import { linear } from '../layers/linear.ts';
import { applyRope } from '../layers/rotary.ts';
import { loadWeight, type Precision } from '../models/weight-source.ts';
import { type Patches, patchPositions } from './image-processor.ts';
import { interpolation, rotaryTable } from './patch-tables.ts';
import { towerSource, type VisionConfig } from './vision-config.ts';

type Weights = Record<string, Tensor>;

/** What the language model reads of an image. */
export interface ImageFeatures {
  /** [tokens, hidden size of the language model] */
  features: Tensor;
  /** What the first layers of the language model add at the image's positions, each as `features`. */
  deepstack: Tensor[];
}

type EmbedTree = {
  patches: Tensor;
  weights: Weights;
  /** int32 [4, patches] and [4, patches, 1]: rows of the position table, and how much of each. */
  taps: Tensor;
  shares: Tensor;
};
type ProjectTree = { x: Tensor; weights: Weights; cos: Tensor; sin: Tensor };
type AttendTree = { q: Tensor; k: Tensor; v: Tensor; mask: Tensor };
type FinishTree = { x: Tensor; mixed: Tensor; weights: Weights };
type MergeTree = { x: Tensor; weights: Weights; afterShuffle: boolean };

const NORM_EPS = 1e-6;
/** Scores that attention holds at once: large images are attended to in slices of their patches. */
const SCORES_BYTES = 2 ** 27;

interface TowerFunctions {
  embed(tree: EmbedTree): { x: Tensor };
  project(tree: ProjectTree): { q: Tensor; k: Tensor; v: Tensor };
  attend(tree: AttendTree): { mixed: Tensor };
  finish(tree: FinishTree): { y: Tensor };
  merge(tree: MergeTree): { y: Tensor };
}

/** Compiled once per model, however often its weights are loaded. */
const compiled = new WeakMap<VisionConfig, TowerFunctions>();

function functionsOf(config: VisionConfig, matmulPrecision: MatmulPrecision): TowerFunctions {
  const known = compiled.get(config);
  if (known) return known;
  const options = { matmulPrecision };
  const { numHeads, hiddenSize, mergeSize } = config;
  const scale = 1 / Math.sqrt(hiddenSize / numHeads);
  const functions: TowerFunctions = {
    embed: compile('vision_embed', (tree: EmbedTree) => ({ x: embedPatches(tree) }), options),
    project: compile('vision_project', (tree: ProjectTree) => project(tree, numHeads), options),
    attend: compile(
      'vision_attend',
      ({ q, k, v, mask }: AttendTree) => ({ mixed: attend(q, k, v, mask, scale) }),
      options,
    ),
    finish: compile('vision_mlp', (tree: FinishTree) => ({ y: finish(tree) }), options),
    merge: compile('vision_merge', (tree: MergeTree) => ({ y: merge(tree, mergeSize ** 2) }), options),
  };
  compiled.set(config, functions);
  return functions;
}

export class VisionTower {
  readonly #config: VisionConfig;
  readonly #patches: Weights;
  readonly #blocks: Weights[];
  readonly #merger: Weights;
  readonly #deepstack: Weights[];
  readonly #run: TowerFunctions;
  readonly #scoresBytes: number;

  /**
   * @param options.scoresBytes Scores that attention holds at once
   * @throws EngineError (user) for a tensor that is missing or not finite.
   */
  constructor(
    reader: SafetensorsReader,
    config: VisionConfig,
    options: { precision: Precision; matmulPrecision: MatmulPrecision; scoresBytes?: number },
  ) {
    this.#config = config;
    const load = (names: Record<string, string>) => loadAll(reader, config, names, options.precision);
    const { root } = config;
    this.#patches = load({
      ...withBias('proj', `${root}.patch_embed.proj`),
      positions: `${root}.pos_embed.weight`,
    });
    this.#blocks = Array.from({ length: config.numBlocks }, (_, i) =>
      load(blockNames(`${root}.blocks.${i}`)),
    );
    this.#merger = load(mergerNames(`${root}.merger`));
    this.#deepstack = config.deepstack.map((_, i) => load(mergerNames(`${root}.deepstack_merger_list.${i}`)));
    this.#run = functionsOf(config, options.matmulPrecision);
    this.#scoresBytes = options.scoresBytes ?? SCORES_BYTES;
  }

  /** Runs one image; the caller owns the result. */
  run(image: Patches): ImageFeatures {
    const { mergeSize, numHeads, deepstack: taken } = this.#config;
    const count = image.rows * image.columns;
    const width = paddedPatches(count, mergeSize ** 2);
    const tokens = count / mergeSize ** 2;
    const inputs = this.#inputs(image, count, width);
    const { taps, shares, patches, cos, sin, mask } = inputs;
    const deepstack: Tensor[] = [];
    let { x } = this.#run.embed({ patches, weights: this.#patches, taps, shares });
    this.#blocks.forEach((weights, block) => {
      const { q, k, v } = this.#run.project({ x, weights, cos, sin });
      const mixed = this.#attendInSlices({ q, k, v, mask }, numHeads * width);
      const { y } = this.#run.finish({ x, mixed, weights });
      tf.dispose([x, q, k, v, mixed]);
      x = y;
      const at = taken.indexOf(block);
      if (at >= 0) deepstack.push(this.#features(x, this.#deepstack[at]!, tokens, true));
    });
    const features = this.#features(x, this.#merger, tokens, false);
    tf.dispose([x, ...Object.values(inputs)]);
    return { features, deepstack };
  }

  /** @param perQuery Scores of one query, over all heads */
  #attendInSlices({ q, k, v, mask }: AttendTree, perQuery: number): Tensor {
    const [, heads, width, dim] = q.shape as [number, number, number, number];
    const most = Math.max(16, Math.floor(this.#scoresBytes / (4 * perQuery) / 16) * 16);
    if (most >= width) return this.#run.attend({ q, k, v, mask }).mixed;
    const parts: Tensor[] = [];
    for (let start = 0; start < width; start += most) {
      const some = tf.slice(q, [0, 0, start, 0], [1, heads, Math.min(most, width - start), dim]) as Tensor;
      parts.push(this.#run.attend({ q: some, k, v, mask }).mixed);
      some.dispose();
    }
    const mixed = tf.concat(parts, 2) as Tensor;
    tf.dispose(parts);
    return mixed;
  }

  /** Merged features of the real patches, [tokens, hidden]. */
  #features(x: Tensor, weights: Weights, tokens: number, afterShuffle: boolean): Tensor {
    const { y } = this.#run.merge({ x, weights, afterShuffle });
    const features = tf.slice(y, [0, 0], [tokens, y.shape[1] as number]) as Tensor;
    y.dispose();
    return features;
  }

  #inputs({ rows, columns, values }: Patches, count: number, width: number) {
    const { mergeSize, positionsPerSide, hiddenSize, numHeads, ropeTheta } = this.#config;
    const positions = patchPositions(rows, columns, mergeSize);
    const patchSize = values.length / count;
    const padded = new Float32Array(width * patchSize);
    padded.set(values);
    const { taps, shares } = interpolation(positions, { rows, columns, side: positionsPerSide, width });
    const { cos, sin } = rotaryTable(positions, { dim: hiddenSize / numHeads, theta: ropeTheta, width });
    const half = hiddenSize / numHeads / 2;
    const mask = new Float32Array(width).fill(MASKED, count);
    return {
      patches: tf.tensor3d(padded, [1, width, patchSize]) as Tensor,
      taps: tf.tensor2d(taps, [4, width], 'int32') as Tensor,
      shares: tf.tensor3d(shares, [4, width, 1]) as Tensor,
      cos: tf.tensor3d(cos, [1, width, half]) as Tensor,
      sin: tf.tensor3d(sin, [1, width, half]) as Tensor,
      mask: tf.tensor4d(mask, [1, 1, 1, width]) as Tensor,
    };
  }

  dispose(): void {
    const all = [this.#patches, ...this.#blocks, this.#merger, ...this.#deepstack];
    tf.dispose(all.flatMap((weights) => Object.values(weights)));
  }
}

/** Patches are padded to few counts, so that few shapes are compiled. */
function paddedPatches(count: number, perToken: number): number {
  const step = perToken * (count <= 256 ? 16 : count <= 2048 ? 64 : 256);
  return Math.ceil(count / step) * step;
}

/** [1, patches, channels · frames · side · side] → [1, patches, hidden]; the patches' convolution has no overlap. */
function embedPatches({ patches, weights: w, taps, shares }: EmbedTree): Tensor {
  const kernel = tf.reshape(w.proj!, [w.proj!.shape[0] as number, -1]);
  const positions = tf.sum(tf.mul(tf.gather(w.positions!, taps as never), shares), 0);
  return tf.add(linear(patches, kernel, undefined, w.projBias), tf.expandDims(positions, 0));
}

/** Rotated queries and keys, and values, [1, heads, patches, dim] each. */
function project({ x, weights: w, cos, sin }: ProjectTree, heads: number) {
  const normed = layerNorm(x, w.norm1!, w.norm1Bias!, NORM_EPS);
  const qkv = linear(normed, w.qkv!, undefined, w.qkvBias);
  const [q, k, v] = tf.split(qkv, 3, -1).map((part) => splitHeads(part, heads)) as [Tensor, Tensor, Tensor];
  return { q: applyRope(q, { cos, sin }), k: applyRope(k, { cos, sin }), v };
}

function finish({ x, mixed, weights: w }: FinishTree): Tensor {
  const attended = tf.add(x, linear(mergeHeads(mixed), w.proj!, undefined, w.projBias));
  const normed = layerNorm(attended, w.norm2!, w.norm2Bias!, NORM_EPS);
  const inner = geluTanh(linear(normed, w.up!, undefined, w.upBias));
  return tf.add(attended, linear(inner, w.down!, undefined, w.downBias));
}

/** [1, patches, hidden] → [patches / perToken, out]; deepstack's mergers norm the joined patches, the last one each patch. */
function merge({ x, weights: w, afterShuffle }: MergeTree, perToken: number): Tensor {
  const [, patches, hidden] = x.shape as [number, number, number];
  const joined = (t: Tensor) => tf.reshape(t, [1, patches / perToken, perToken * hidden]);
  const norm = (t: Tensor) => layerNorm(t, w.norm!, w.normBias!, NORM_EPS);
  const normed = afterShuffle ? norm(joined(x)) : joined(norm(x));
  const inner = gelu(linear(normed, w.up!, undefined, w.upBias));
  return tf.squeeze(linear(inner, w.down!, undefined, w.downBias), [0]);
}

/** x · Φ(x) */
function gelu(x: Tensor): Tensor {
  return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
}

function loadAll(
  reader: SafetensorsReader,
  config: VisionConfig,
  names: Record<string, string>,
  precision: Precision,
): Weights {
  const load = (name: string) => loadWeight(reader, towerSource(config, name), precision);
  return Object.fromEntries(Object.entries(names).map(([key, name]) => [key, load(name)]));
}

function blockNames(at: string): Record<string, string> {
  return {
    ...withBias('norm1', `${at}.norm1`),
    ...withBias('qkv', `${at}.attn.qkv`),
    ...withBias('proj', `${at}.attn.proj`),
    ...withBias('norm2', `${at}.norm2`),
    ...withBias('up', `${at}.mlp.linear_fc1`),
    ...withBias('down', `${at}.mlp.linear_fc2`),
  };
}

function mergerNames(at: string): Record<string, string> {
  return {
    ...withBias('norm', `${at}.norm`),
    ...withBias('up', `${at}.linear_fc1`),
    ...withBias('down', `${at}.linear_fc2`),
  };
}

function withBias(key: string, at: string): Record<string, string> {
  return { [key]: `${at}.weight`, [`${key}Bias`]: `${at}.bias` };
}
