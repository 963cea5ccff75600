import type { Rollout, Store } from '@anneal/store';
import { IncrementalDecoder, type Tokenizer } from '@anneal/tokenizer';
import type { ConsoleRollout, ConsoleRolloutDetail } from '@anneal/types/console';
import { ApiError } from '../errors.ts';
import type { BaseModels } from './base-models.ts';
import type { OpenAiModels } from './openai-models.ts';
import type { SessionService } from './sessions.ts';

/** Of a prompt, its end tells most: what stands before is often the same for all. */
const PROMPT_PREVIEW_TOKENS = 20;
const TEXT_PREVIEW_TOKENS = 64;
const SESSIONS = 100;

export interface ConsoleRolloutDeps {
  store: Store;
  sessions: SessionService;
  baseModels: BaseModels;
  /** Keeps the tokenizers. */
  models: OpenAiModels;
}

/** Recorded samples, as text: only the owner's. */
export class ConsoleRolloutService {
  readonly #deps: ConsoleRolloutDeps;

  constructor(deps: ConsoleRolloutDeps) {
    this.#deps = deps;
  }

  async sessions(owner: string) {
    const { store } = this.#deps;
    const found = await store.rollouts.sessions(owner, SESSIONS);
    return await Promise.all(
      found.map(async ({ sessionId, count, latestAt }) => ({
        session_id: sessionId,
        display_name: (await store.sessions.get(sessionId))?.displayName ?? null,
        rollouts: count,
        latest_at: latestAt,
      })),
    );
  }

  /** Newest first. @throws ApiError `not_found` unless this owner has the session. */
  async ofSession(
    sessionId: string,
    owner: string,
    limit: number,
    offset: number,
  ): Promise<ConsoleRollout[]> {
    await this.#deps.sessions.get(sessionId, owner);
    const rollouts = await this.#deps.store.rollouts.ofSession(sessionId, owner, limit, offset);
    return await Promise.all(rollouts.map((rollout) => this.#preview(rollout)));
  }

  /** @throws ApiError `not_found` unless this owner has it. */
  async get(id: string, owner: string): Promise<ConsoleRolloutDetail> {
    const rollout = await this.#deps.store.rollouts.get(id);
    if (!rollout || rollout.owner !== owner) {
      throw new ApiError('not_found', `rollout_id "${id}" is unknown; it may have made room for newer ones`);
    }
    const { summary, tokens } = rollout;
    const tokenizer = await this.#tokenizer(rollout);
    return {
      ...headOf(rollout),
      prompt: textOf(tokenizer, tokens.prompt),
      prompt_cut: tokens.prompt.length < summary.promptTokens,
      texts: tokens.texts.map((text, at) => ({
        ...drawnOf(rollout, at),
        pieces: piecesOf(tokenizer, text),
        cut: text.tokens.length < (summary.texts[at]?.tokens ?? 0),
      })),
      more_texts: summary.texts.length - tokens.texts.length,
    };
  }

  /** Removes what was recorded of a session. @throws ApiError `not_found` unless this owner has it. */
  async deleteSession(sessionId: string, owner: string): Promise<void> {
    await this.#deps.sessions.get(sessionId, owner);
    await this.#deps.store.rollouts.deleteSession(sessionId);
  }

  async #preview(rollout: Rollout): Promise<ConsoleRollout> {
    const tokenizer = await this.#tokenizer(rollout);
    return {
      ...headOf(rollout),
      prompt_preview: textOf(tokenizer, rollout.tokens.prompt.slice(-PROMPT_PREVIEW_TOKENS), true),
      texts: rollout.tokens.texts.map(({ tokens }, at) => ({
        ...drawnOf(rollout, at),
        preview: textOf(tokenizer, tokens.slice(0, TEXT_PREVIEW_TOKENS), true),
      })),
    };
  }

  /** Undefined where the base model is no longer served, or has no tokenizer. */
  async #tokenizer({ baseModel }: Rollout): Promise<Tokenizer | undefined> {
    const info = this.#deps.baseModels.find(baseModel);
    return info && (await this.#deps.models.tokenizer({ info }).catch(() => undefined));
  }
}

function headOf({ id, sessionId, baseModel, modelPath, samplerId, at, summary }: Rollout) {
  const { temperature, topP, topK, maxTokens } = summary.params;
  return {
    rollout_id: id,
    session_id: sessionId,
    base_model: baseModel,
    model_path: modelPath,
    sampler_id: samplerId,
    at,
    prompt_tokens: summary.promptTokens,
    temperature,
    top_p: topP,
    top_k: topK,
    max_tokens: maxTokens,
  };
}

function drawnOf({ summary }: Rollout, at: number) {
  const text = summary.texts[at];
  return {
    tokens: text?.tokens ?? 0,
    mean_logprob: text?.meanLogprob ?? null,
    stop_reason: text?.stopReason ?? ('length' as const),
    advantage: text?.advantage ?? null,
  };
}

/** Without a tokenizer, ids stand for the text. */
function textOf(tokenizer: Tokenizer | undefined, ids: number[], skipSpecialTokens = false): string {
  return tokenizer ? tokenizer.decode(ids, { skipSpecialTokens }) : ids.join(' ');
}

function piecesOf(tokenizer: Tokenizer | undefined, text: { tokens: number[]; logprobs: number[] }) {
  const decoder = tokenizer && new IncrementalDecoder(tokenizer);
  const pieces = text.tokens.map((id, at) => ({
    text: decoder ? decoder.push(id) : `${id} `,
    logprob: text.logprobs[at] ?? 0,
  }));
  const last = pieces.at(-1);
  if (last && decoder) last.text += decoder.pending;
  return pieces;
}
