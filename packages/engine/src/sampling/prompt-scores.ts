/** What can be asked about a prompt's own tokens: their logprobs, the best alternatives, given targets, random draws. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum, SampleRequest, SampleResult } from '../engine.ts';
import type { LoraTensors } from '../layers/linear.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { randomKey, uniformAt } from '../random/counter-random.ts';
import type { MicroBatch } from '../training/batch-plan.ts';
import { HEAD_CHUNK, logitsOf } from '../training/head.ts';
import type { HeadPass } from '../training/head-pass.ts';
import { imageSpans } from '../vision/image-spans.ts';
import { packTopk, type TopkRow } from './sequence.ts';

type PromptScoresResult = Pick<
  SampleResult,
  'promptLogprobs' | 'topkPromptLogprobs' | 'targetPromptLogprobs' | 'promptAltTokens'
>;

interface ChunkTree {
  [key: string]: Tensor | { a: Tensor; b: Tensor; scale: number } | number | undefined;
  h: Tensor;
  norm: Tensor;
  weight: Tensor;
  lora: { a: Tensor; b: Tensor; scale: number } | undefined;
  k: number;
}

/** True when a request wants anything that needs the prompt's hidden states beyond the last. */
export function wantsPromptScores(request: SampleRequest): boolean {
  return (
    request.promptLogprobs ||
    request.topkPromptLogprobs > 0 ||
    request.targetPromptLogprobs !== undefined ||
    request.promptAltTokensK > 0
  );
}

export class PromptScorer {
  readonly #base: BaseModel;
  readonly #head: HeadPass;
  readonly #topk: (inputs: ChunkTree) => { ids: Tensor; logprobs: Tensor };
  readonly #draw: (inputs: ChunkTree & { u: Tensor; temperature: Tensor }) => {
    ids: Tensor;
    logprobs: Tensor;
  };

  constructor(base: BaseModel, head: HeadPass) {
    this.#base = base;
    this.#head = head;
    const options = { matmulPrecision: base.matmulPrecision };
    const logits = ({ h, norm, weight, lora }: ChunkTree) =>
      logitsOf(base.architecture.finalNorm(base.config, h, norm), weight, lora);
    this.#topk = compile(
      'prompt_topk',
      (inputs: ChunkTree) => {
        const scored = tf.logSoftmax(logits(inputs), -1);
        const { values, indices } = tf.topk(scored, inputs.k, true);
        return { ids: indices as Tensor, logprobs: values as Tensor };
      },
      options,
    );
    this.#draw = compile(
      'prompt_draw',
      (inputs: ChunkTree & { u: Tensor; temperature: Tensor }) => {
        const scored = tf.logSoftmax(logits(inputs), -1);
        const running = tf.cumsum(tf.softmax(tf.div(scored, inputs.temperature)), -1);
        const ids = countBelow(running, inputs.u, inputs.k);
        return { ids, logprobs: tf.gather(scored, ids as never, 1, 1) as Tensor };
      },
      options,
    );
  }

  /**
   * Scores one prompt.
   * @param x Hidden states of the prompt before the final norm, [1, width, hidden]; width may exceed the prompt.
   */
  score(
    request: SampleRequest,
    x: Tensor,
    adapter: LoraAdapter | undefined,
    seed: bigint,
  ): PromptScoresResult {
    const length = request.prompt.length;
    const first =
      request.promptLogprobsLastN === undefined ? 1 : Math.max(1, length - request.promptLogprobsLastN);
    const result: PromptScoresResult = {};
    if (request.promptLogprobs) {
      const next = Int32Array.from(request.prompt, (_, i) => request.prompt[i + 1] ?? 0);
      result.promptLogprobs = shifted(
        this.#logprobs(x, adapter, request.prompt, next, 1, (i) => i + 1 >= first && i + 1 < length),
        first,
        length,
      );
      // An image's tokens are not drawn from the vocabulary.
      for (const { start, end } of imageSpans(this.#base, request.images))
        result.promptLogprobs.fill(Number.NaN, start, end);
    }
    if (request.topkPromptLogprobs > 0) {
      const k = Math.min(request.topkPromptLogprobs, this.#base.config.vocabSize);
      const rows = this.#topkRows(x, adapter?.headTensors(), first - 1, length - 1, k);
      result.topkPromptLogprobs = packTopk(
        [...new Array<undefined>(first).fill(undefined), ...rows].slice(0, Math.max(length, 1)),
        request.topkPromptLogprobs,
      );
    }
    const targets = request.targetPromptLogprobs;
    if (targets) {
      const [, k] = targets.shape;
      const padded = new Int32Array(length * k);
      padded.set(targets.data.map((id) => Math.max(id, 0)));
      const values = this.#logprobs(x, adapter, request.prompt, padded, k, (i) => i < length - 1);
      result.targetPromptLogprobs = Float32Array.from(targets.data, (id, i) =>
        id < 0 ? 0 : (values[i] as number),
      );
    }
    if (request.promptAltTokensK > 0) result.promptAltTokens = this.#alternatives(request, x, adapter, seed);
    return result;
  }

  #logprobs(
    x: Tensor,
    adapter: LoraAdapter | undefined,
    prompt: Int32Array,
    targets: Int32Array,
    k: number,
    wanted: (position: number) => boolean,
  ): Float32Array {
    const batch: MicroBatch = { datums: [0], height: 1, width: x.shape[1] as number, targetsPerPosition: k };
    const datum: EngineDatum = {
      tokens: prompt,
      inputs: { target_tokens: { dtype: 'int32', shape: [prompt.length, k], data: targets } },
    };
    return this.#head.logprobs(x, adapter, batch, [datum], wanted);
  }

  #topkRows(x: Tensor, lora: LoraTensors | undefined, from: number, to: number, k: number): TopkRow[] {
    const rows: TopkRow[] = [];
    this.#eachChunk(x, lora, from, to, k, (tree, count) => {
      const { ids, logprobs } = this.#topk(tree);
      rows.push(...readRows(ids, logprobs, count, k));
    });
    return rows;
  }

  #alternatives(
    request: SampleRequest,
    x: Tensor,
    adapter: LoraAdapter | undefined,
    seed: bigint,
  ): SampleResult['promptAltTokens'] {
    const k = request.promptAltTokensK;
    const rows: TopkRow[] = [];
    const key = randomKey(seed, 'prompt_alt_tokens');
    const temperature = tf.scalar(Math.max(request.params.temperature, 1e-6)) as Tensor;
    this.#eachChunk(x, adapter?.headTensors(), 0, request.prompt.length - 1, k, (tree, count, start) => {
      const u = tf.tensor2d(
        Float32Array.from({ length: HEAD_CHUNK * k }, (_, i) => Math.fround(uniformAt(key, start * k + i))),
        [HEAD_CHUNK, k],
      ) as Tensor;
      const { ids, logprobs } = this.#draw({ ...tree, u, temperature });
      rows.push(...readRows(ids, logprobs, count, k));
      u.dispose();
    });
    temperature.dispose();
    const packed = packTopk(rows, k);
    return { k, tokens: packed.tokenIds, logprobs: packed.logprobs };
  }

  #eachChunk(
    x: Tensor,
    lora: LoraTensors | undefined,
    from: number,
    to: number,
    k: number,
    visit: (tree: ChunkTree, count: number, start: number) => void,
  ): void {
    for (let start = from; start < to; start += HEAD_CHUNK) {
      const count = Math.min(HEAD_CHUNK, to - start);
      const h = tf.tidy(() =>
        tf.pad(tf.squeeze(tf.slice(x, [0, start, 0], [1, count, -1]), [0]), [
          [0, HEAD_CHUNK - count],
          [0, 0],
        ]),
      );
      visit(
        { h, norm: this.#base.finalNorm, weight: this.#base.head, lora: lora as ChunkTree['lora'], k },
        count,
        start,
      );
      h.dispose();
    }
  }
}

/** For each of k uniform numbers per row, how many running sums lie at or below it: the index drawn. */
function countBelow(running: Tensor, u: Tensor, k: number): Tensor {
  const vocab = running.shape[1] as number;
  const total = tf.slice(running, [0, vocab - 1], [-1, 1]);
  const drawn = Array.from({ length: k }, (_, i) => {
    const at = tf.mul(tf.slice(u, [0, i], [-1, 1]), total);
    return tf.sum(tf.cast(tf.lessEqual(running, at), 'int32'), -1, true);
  });
  return tf.minimum(tf.concat(drawn, 1), tf.scalar(vocab - 1, 'int32'));
}

function readRows(ids: Tensor, logprobs: Tensor, count: number, k: number): TopkRow[] {
  const idValues = ids.dataSync() as Int32Array;
  const values = logprobs.dataSync() as Float32Array;
  tf.dispose([ids, logprobs]);
  return Array.from({ length: count }, (_, row) => ({
    ids: idValues.subarray(row * k, (row + 1) * k),
    logprobs: values.subarray(row * k, (row + 1) * k),
  }));
}

/** Logprob of token i is read at position i − 1; positions before `first` are NaN. */
function shifted(logprobs: Float32Array, first: number, length: number): Float32Array {
  const result = new Float32Array(length).fill(Number.NaN);
  for (let i = first; i < length; i++) result[i] = logprobs[i - 1] as number;
  return result;
}
