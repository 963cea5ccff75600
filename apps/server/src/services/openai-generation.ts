import { Readable } from 'node:stream';
import type { Engine, SampleResult, SamplingParams, TopkLogprobs } from '@anneal/engine';
import type { Tokenizer } from '@anneal/tokenizer';
import { ApiError } from '../errors.ts';
import type { OpenAiModel } from './openai-models.ts';
import type { Prompt } from './openai-prompts.ts';
import { OpenAiRefusal } from './openai-refusal.ts';
import { type PlacedToken, SequenceText, type TextPiece } from './openai-text.ts';
import type { Recorder } from './recorder.ts';
import type { SamplerPool } from './sampler-pool.ts';
import type { SamplerService } from './samplers.ts';

/** What is generated: `n` texts for each prompt. */
export interface Generation {
  model: OpenAiModel;
  tokenizer: Tokenizer;
  prompts: Prompt[];
  n: number;
  params: SamplingParams;
  /** Candidates to score at each position; undefined: no log-probabilities at all. */
  logprobs: number | undefined;
  /** Put the prompt before each text. */
  echo: boolean;
}

/** A token with its log-probability; null at the very first one, which nothing precedes. */
export interface ScoredToken {
  text: string;
  logprob: number | null;
  /** Best first. */
  top: { text: string; logprob: number }[];
  /** Characters of the returned text before it. */
  offset: number;
}

/** More of one text. The last delta of each text has a finish. */
export interface Delta {
  /** Place of the text: texts of the first prompt come first. */
  index: number;
  text: string;
  tokens: ScoredToken[];
  finish: 'stop' | 'length' | null;
}

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

/** A generation under way. The usage is complete when the deltas are at their end. */
export interface Generating {
  deltas: AsyncIterable<Delta>;
  usage: Usage;
}

/** Texts of one prompt that were generated, or could not be, for those who trace. Times are milliseconds since 1970. */
export interface Generated {
  /** As the request named it. */
  model: string;
  startedAt: number;
  endedAt: number;
  promptTokens: number;
  completionTokens: number;
  failed: boolean;
}

/** The most texts of one request. */
const MAX_TEXTS = 4096;
const UNUSED = -99_999;

export interface GeneratorDeps {
  engine: Engine;
  samplers: SamplerService;
  pool: SamplerPool;
  recorder: Recorder;
  maxPending: number;
  onGenerated?: ((generated: Generated) => void) | undefined;
}

/** Texts by sampling, for calls whose caller waits on the connection. */
export class OpenAiGenerator {
  readonly #deps: GeneratorDeps;
  readonly #running = new Set<AbortController>();
  #pending = 0;

  constructor(deps: GeneratorDeps) {
    this.#deps = deps;
  }

  /** Prompts under way. */
  get pending(): number {
    return this.#pending;
  }

  /**
   * Starts sampling. It ends early when `signal` is aborted or nobody reads the deltas any more.
   *
   * @throws ApiError for what can be told at once: lengths and counts
   */
  start(generation: Generation, signal: AbortSignal): Generating {
    this.#check(generation);
    const usage: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
    const deltas = new Readable({ objectMode: true, read() {} });
    const abort = new AbortController();
    const stop = (): void => abort.abort();
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    deltas.once('close', stop);
    this.#running.add(abort);
    this.#pending += generation.prompts.length;
    const work = generation.prompts.map((prompt, at) =>
      this.#observed(generation, prompt, () =>
        this.#one(generation, prompt, at * generation.n, abort.signal, usage, (delta) => deltas.push(delta)),
      ),
    );
    Promise.all(work)
      .then(
        () => void deltas.push(null),
        (error: Error) => void deltas.destroy(error),
      )
      .finally(() => {
        this.#pending -= generation.prompts.length;
        this.#running.delete(abort);
        signal.removeEventListener('abort', stop);
      });
    return { deltas, usage };
  }

  /** Ends everything that runs. */
  close(): void {
    for (const abort of this.#running) abort.abort();
  }

  /** @param work Resolves with the number of tokens that were drawn. */
  async #observed({ model }: Generation, prompt: Prompt, work: () => Promise<number>): Promise<void> {
    const startedAt = Date.now();
    const tell = (completionTokens: number, failed: boolean): void =>
      this.#deps.onGenerated?.({
        model: model.id,
        startedAt,
        endedAt: Date.now(),
        promptTokens: prompt.ids.length,
        completionTokens,
        failed,
      });
    try {
      tell(await work(), false);
    } catch (error) {
      tell(0, true);
      throw error;
    }
  }

  async #one(
    generation: Generation,
    prompt: Prompt,
    firstIndex: number,
    signal: AbortSignal,
    usage: Usage,
    send: (delta: Delta) => void,
  ): Promise<number> {
    const { model, n, params, logprobs, echo } = generation;
    const texts = Array.from({ length: n }, (_, at) => new Choice(generation, prompt, firstIndex + at, send));
    // Scores of candidates and of the prompt come with the result only.
    const scorePrompt = echo && logprobs !== undefined;
    const live = !logprobs && !scorePrompt && params.maxTokens !== 0;
    const { engine, pool, samplers } = this.#deps;
    const result = await pool.use(
      model.weights,
      () => samplers.source(model.weights, model.path, model.owner),
      (samplerId) =>
        engine.sample(
          {
            samplerId,
            prompt: prompt.ids,
            numSamples: n,
            params: params.maxTokens === 0 ? { ...params, maxTokens: 1 } : params,
            promptLogprobs: scorePrompt,
            topkPromptLogprobs: scorePrompt ? (logprobs ?? 0) : 0,
            topkSampleLogprobs: logprobs ?? 0,
            promptAltTokensK: 0,
          },
          {
            signal,
            ...(live
              ? { onProgress: ({ sequence, tokens, logprobs }) => texts[sequence]?.add(tokens, logprobs) }
              : {}),
          },
        ),
    );
    const wanted = params.maxTokens === 0 ? withoutSamples(result) : result;
    for (const [at, text] of texts.entries()) text.end(wanted, at);
    this.#deps.recorder.generated(model.owner, prompt.ids.length, wanted);
    usage.promptTokens += prompt.ids.length;
    usage.cachedTokens += result.promptCacheHitTokens;
    const drawn = wanted.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    usage.completionTokens += drawn;
    return drawn;
  }

  #check({ model, prompts, n, params }: Generation): void {
    if (prompts.length * n > MAX_TEXTS) {
      const message = `n: ${prompts.length} prompts times ${n} are more than ${MAX_TEXTS} texts`;
      throw new OpenAiRefusal('invalid_request', message, { param: 'n' });
    }
    if (this.#pending + prompts.length > this.#deps.maxPending) {
      const message = `${this.#pending} samples are under way: slow down`;
      throw new ApiError('too_many_requests', message, { retryAfter: 1 });
    }
    const room = model.info.maxContextLength;
    for (const { ids } of prompts) {
      if (ids.length === 0) throw refusePrompt('prompt: it holds no token');
      const more = Math.max(1, params.maxTokens ?? 1);
      if (ids.length + more > room) {
        const message = `The prompt's ${ids.length} tokens plus max_tokens ${more} exceed the model's context of ${room} tokens: shorten either`;
        throw refusePrompt(message, 'context_length_exceeded');
      }
    }
  }
}

function refusePrompt(message: string, code?: string): OpenAiRefusal {
  return new OpenAiRefusal('invalid_request', message, { param: 'prompt', ...(code ? { code } : {}) });
}

function withoutSamples(result: SampleResult): SampleResult {
  const none = { tokens: new Int32Array(0), logprobs: new Float32Array(0), stopReason: 'length' as const };
  return { ...result, sequences: result.sequences.map(() => none) };
}

/** One text of the answer, from its tokens to its deltas. */
class Choice {
  readonly #generation: Generation;
  readonly #prompt: Prompt;
  readonly #index: number;
  readonly #send: (delta: Delta) => void;
  readonly #text: SequenceText;
  readonly #logprobs: number[] = [];
  #topk: TopkLogprobs | undefined;
  #begun = false;

  constructor(generation: Generation, prompt: Prompt, index: number, send: (delta: Delta) => void) {
    this.#generation = generation;
    this.#prompt = prompt;
    this.#index = index;
    this.#send = send;
    this.#text = new SequenceText(generation.tokenizer, {
      endIds: generation.model.info.eosTokenIds,
      stopStrings: generation.params.stop?.strings ?? [],
    });
  }

  /** Adds tokens as they are drawn. */
  add(tokens: Int32Array, logprobs: Float32Array): void {
    this.#begin(undefined);
    const pieces = this.#push(tokens, logprobs);
    const text = pieces.map((piece) => piece.text).join('');
    if (text !== '') this.#deliver(pieces, null);
    else this.#unsent.push(...pieces.flatMap((piece) => piece.tokens));
  }

  /** Adds what is missing, and ends. */
  end(result: SampleResult, at: number): void {
    this.#begin(result);
    const sequence = result.sequences[at];
    if (!sequence) throw new ApiError('internal', `The engine returned ${result.sequences.length} sequences`);
    this.#topk = sequence.topk;
    const seen = this.#logprobs.length;
    const pieces = this.#push(sequence.tokens.subarray(seen), sequence.logprobs.subarray(seen));
    this.#deliver([...pieces, this.#text.finish()], sequence.stopReason);
  }

  readonly #unsent: PlacedToken[] = [];

  #push(tokens: Int32Array, logprobs: Float32Array): TextPiece[] {
    this.#logprobs.push(...logprobs);
    return [...tokens].map((id) => this.#text.push(id));
  }

  #begin(result: SampleResult | undefined): void {
    if (this.#begun) return;
    this.#begun = true;
    if (!this.#generation.echo) return;
    const tokens = result && this.#generation.logprobs !== undefined ? this.#promptTokens(result) : [];
    this.#send({ index: this.#index, text: this.#prompt.text, tokens, finish: null });
  }

  #deliver(pieces: TextPiece[], finish: Delta['finish']): void {
    const text = pieces.map((piece) => piece.text).join('');
    const placed = [...this.#unsent.splice(0), ...pieces.flatMap((piece) => piece.tokens)];
    const shift = this.#generation.echo ? this.#prompt.text.length : 0;
    const tokens = placed.map(({ id, at, offset }) => ({
      text: this.#name(id),
      logprob: this.#logprobs[at] ?? null,
      top: this.#candidates(this.#topk, at),
      offset: offset + shift,
    }));
    this.#send({ index: this.#index, text, tokens, finish });
  }

  #promptTokens(result: SampleResult): ScoredToken[] {
    let offset = 0;
    return [...this.#prompt.ids].map((id, at) => {
      const score = result.promptLogprobs?.[at];
      const token: ScoredToken = {
        text: this.#name(id),
        logprob: score === undefined || Number.isNaN(score) ? null : score,
        top: this.#candidates(result.topkPromptLogprobs, at),
        offset,
      };
      offset += token.text.length;
      return token;
    });
  }

  #candidates(topk: TopkLogprobs | undefined, row: number): ScoredToken['top'] {
    if (!topk || row >= topk.length) return [];
    const cells = Array.from({ length: topk.k }, (_, at) => row * topk.k + at);
    return cells
      .map((cell) => ({ id: topk.tokenIds[cell] ?? 0, logprob: topk.logprobs[cell] ?? UNUSED }))
      .filter(({ logprob }) => logprob > UNUSED)
      .map(({ id, logprob }) => ({ text: this.#name(id), logprob }));
  }

  #name(id: number): string {
    return this.#generation.tokenizer.decode([id]);
  }
}
