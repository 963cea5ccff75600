/** Forward and backward passes: a batch is split, submitted in order, and its results are joined. */
import {
  type Datum,
  encodeForwardBackwardRequest,
  type ForwardBackwardOutput,
  type LossFn,
  type LossFnConfig,
} from '@anneal/types';
import { APIFuture, type FutureContext } from '../core/api-future.ts';
import {
  backwardData,
  type CustomLossFn,
  type CustomLossResult,
  forwardDatum,
  logprobsOf,
  withCustomLoss,
} from '../custom-loss.ts';
import type { Backend } from './backend.ts';
import { foldResults } from './fold-results.ts';
import type { Call } from './http.ts';
import type { QueueWatch } from './queue-watch.ts';
import { FORWARD, FORWARD_BACKWARD, type ResultKind } from './result-kind.ts';
import { type BatchPart, datumBytes, splitBatch } from './split-batch.ts';
import { fetchResult, type Submission, submit } from './submission.ts';
import type { SeqIds, Turns } from './turns.ts';

/** A loss and its settings. */
export interface Pass {
  lossFn: LossFn;
  config: LossFnConfig | undefined;
  forwardOnly: boolean;
}

interface FutureSettings {
  signal?: AbortSignal;
}

/** Waits that nobody can cancel: reserved numbers must be used. */
const UNCANCELLABLE: FutureContext = { signal: new AbortController().signal, promised: () => undefined };
const SURROGATE = { lossFn: 'cross_entropy', config: undefined } as const;

export class TrainingPasses {
  readonly #backend: Backend;
  readonly #modelId: string;
  readonly #turns: Turns;
  readonly #queue: QueueWatch;

  constructor(backend: Backend, modelId: string, turns: Turns, queue: QueueWatch) {
    this.#backend = backend;
    this.#modelId = modelId;
    this.#turns = turns;
    this.#queue = queue;
  }

  /** One pass over a batch. */
  run(data: Datum[], pass: Pass, settings: FutureSettings): APIFuture<ForwardBackwardOutput> {
    const parts = splitBatch(data, this.#backend.config);
    const turn = this.#turns.take(parts.length, (seqIds) => this.#submitParts(parts, pass, seqIds));
    const kind = pass.forwardOnly ? FORWARD : FORWARD_BACKWARD;
    return new APIFuture(async (context) => this.#results(await turn, kind, context), settings);
  }

  /** A forward pass, the caller's loss, and the backward pass that carries its gradient. */
  runCustom(data: Datum[], lossFn: CustomLossFn, settings: FutureSettings): APIFuture<ForwardBackwardOutput> {
    const parts = splitBatch(data.map(forwardDatum), this.#backend.config);
    const turn = this.#turns.take(2 * parts.length, (seqIds) =>
      this.#submitCustom(data, parts, lossFn, seqIds),
    );
    return new APIFuture(async (context) => {
      const { submissions, result } = await turn;
      return withCustomLoss(await this.#results(submissions, FORWARD_BACKWARD, context), result);
    }, settings);
  }

  /** Both passes up to the submission of the second. */
  async #submitCustom(
    data: Datum[],
    parts: BatchPart[],
    lossFn: CustomLossFn,
    seqIds: SeqIds,
  ): Promise<{ submissions: Submission[]; result: CustomLossResult }> {
    try {
      const forward = { ...SURROGATE, forwardOnly: true };
      const first = await this.#submitParts(parts, forward, seqIds.slice(0, parts.length));
      const logprobs = logprobsOf(await this.#results(first, FORWARD, UNCANCELLABLE));
      const result = await lossFn(data, logprobs);
      const backward = repartition(backwardData(data, logprobs, result), parts);
      const pass = { ...SURROGATE, forwardOnly: false };
      return { submissions: await this.#submitParts(backward, pass, seqIds.slice(parts.length)), result };
    } catch (error) {
      this.#turns.break(error);
      throw error;
    }
  }

  async #results(
    submissions: Submission[],
    kind: ResultKind<ForwardBackwardOutput>,
    context: FutureContext,
  ): Promise<ForwardBackwardOutput> {
    const waits = submissions.map((submission) =>
      fetchResult(this.#backend, submission, kind, this.#queue, context),
    );
    return foldResults(await Promise.all(waits));
  }

  /** Sends every part, whatever becomes of the others: a number that is never sent would hold up all later ones. */
  async #submitParts(parts: BatchPart[], pass: Pass, seqIds: SeqIds): Promise<Submission[]> {
    const send = (part: BatchPart, index: number) => this.#submitPart(part, pass, seqIds[index]!);
    const settled = this.#backend.config.parallel_fwdbwd_chunks
      ? await settleFirstLast(parts, send)
      : await settleInOrder(parts, send);
    return settled.map((result) => {
      if (result.status === 'fulfilled') return result.value;
      throw result.reason;
    });
  }

  async #submitPart(part: BatchPart, pass: Pass, seqId: number): Promise<Submission> {
    return this.#backend.limits.trainingBytes.use(part.bytes, undefined, async () => {
      const bytes = encodeForwardBackwardRequest({
        model_id: this.#modelId,
        seq_id: seqId,
        input: { data: part.data, loss_fn: pass.lossFn, loss_fn_config: pass.config },
        forward_only: pass.forwardOnly,
      });
      return submit(this.#backend, await this.#call(bytes));
    });
  }

  async #call(bytes: Uint8Array<ArrayBuffer>): Promise<Call> {
    const call: Call = { method: 'POST', path: '/api/v1/forward_backward', body: bytes };
    const { config, options } = this.#backend;
    if (!config.proto_compress_fwdbwd || !options.zstdCompress) return call;
    return { ...call, body: await options.zstdCompress(bytes), headers: { 'Content-Encoding': 'zstd' } };
  }
}

type Send<T> = (part: BatchPart, index: number) => Promise<T>;

/** All at once but the first, then that: the server waits for it, and then finds the whole batch there. */
async function settleFirstLast<T>(parts: BatchPart[], send: Send<T>): Promise<PromiseSettledResult<T>[]> {
  const [first, ...rest] = parts;
  const later = await Promise.allSettled(rest.map((part, index) => send(part, index + 1)));
  return [...(await Promise.allSettled(first ? [send(first, 0)] : [])), ...later];
}

async function settleInOrder<T>(parts: BatchPart[], send: Send<T>): Promise<PromiseSettledResult<T>[]> {
  const settled: PromiseSettledResult<T>[] = [];
  for (const [index, part] of parts.entries())
    settled.push(...(await Promise.allSettled([send(part, index)])));
  return settled;
}

/** The same cuts as before: the numbers are reserved for them. */
function repartition(data: Datum[], parts: BatchPart[]): BatchPart[] {
  let start = 0;
  return parts.map((part) => {
    const slice = data.slice(start, start + part.data.length);
    start += part.data.length;
    return { data: slice, bytes: slice.reduce((total, datum) => total + datumBytes(datum), 0) };
  });
}
