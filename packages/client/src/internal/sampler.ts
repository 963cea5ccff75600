/** Submits samples to one sampler, with restraint where the server asks for it, and waits for their results. */
import {
  JoinSamplingSessionRequest,
  JoinSamplingSessionResponse,
  SampleRequest,
  type SampleResponse,
  UntypedApiFuture,
} from '@anneal/types';
import type * as z from 'zod';
import type { FutureContext } from '../core/api-future.ts';
import { APIResponseValidationError, TinkerError } from '../core/errors.ts';
import { retryAfterMs } from '../core/retry.ts';
import { isStatus } from './http.ts';
import { pollResult } from './poll.ts';
import { promptBytes } from './prompt-bytes.ts';
import { QueueWatch } from './queue-watch.ts';
import { SAMPLE } from './result-kind.ts';
import { SamplerPoller } from './sampler-poller.ts';
import type { Session } from './session.ts';
import { sleep } from './sleep.ts';
import { postRequest } from './wire-request.ts';

/** A checked request that has no number yet. */
export type UnnumberedSample = Omit<z.input<typeof SampleRequest>, 'seq_id'>;

/** Numbers between two clones of a sampler. */
const CLONE_STRIDE = 1_000_000_000n;
/** Prompts beyond this many bytes pause longer when the server asks for fewer samples. */
const LARGE_PROMPT_BYTES = 128 * 1024;
/** How long after such a wish samples are sent with more restraint. */
const RESTRAINT_MS = 10_000;

export class Sampler {
  readonly session: Session;
  readonly id: string;
  readonly #queue: QueueWatch;
  readonly #isClone: boolean;
  #clone: Promise<bigint> | undefined;
  #poller: SamplerPoller | undefined;
  #count = 0n;

  /** @param isClone whether another client of the same sampler may be at work */
  constructor(session: Session, id: string, isClone: boolean) {
    this.session = session;
    this.id = id;
    this.#isClone = isClone;
    this.#queue = new QueueWatch(session.backend.options, `Sampling from ${id}`, 0);
  }

  /** The next of this client's numbers. */
  nextIndex(): bigint {
    return this.#count++;
  }

  /** Submits once and waits for the result. */
  async sample(
    request: UnnumberedSample,
    index: bigint,
    { signal, promised }: FutureContext,
  ): Promise<SampleResponse> {
    const clone = await this.#cloneNumber();
    const start = performance.now();
    const promise = await this.#submit({ ...request, seq_id: clone * CLONE_STRIDE + index }, signal);
    const { request_id: requestId, sample_sequence_ids: sequenceIds } = promise;
    promised(requestId);
    const onAbort = () => void this.session.cancelSample(requestId);
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      const response = await pollResult(this.session.backend, {
        requestId,
        kind: SAMPLE,
        signal,
        queue: this.#queue,
        roundtripMs: performance.now() - start,
        poller: this.#pollerOf(clone),
      });
      return withSequenceIds(checkResponse(request, response), sequenceIds);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Asked for before the first sample only. */
  #cloneNumber(): Promise<bigint> {
    this.#clone ??= (this.#isClone ? newCloneNumber(this.session, this.id) : Promise.resolve(0n)).catch(
      (error) => {
        this.#clone = undefined;
        throw error;
      },
    );
    return this.#clone;
  }

  #pollerOf(clone: bigint): SamplerPoller | undefined {
    const { backend } = this.session;
    if (!backend.config.sample_use_retrieve_futures) return undefined;
    this.#poller ??= new SamplerPoller(backend, this.id, clone);
    return this.#poller;
  }

  /** Sends when there is room, and again for as long as the server asks for fewer samples. */
  #submit(request: z.input<typeof SampleRequest>, signal: AbortSignal): Promise<UntypedApiFuture> {
    const bytes = promptBytes(request.prompt);
    return this.session.backend.limits.sampleSubmits.use(1, signal, () =>
      this.#withRestraint(bytes, signal, () => this.#sendUntilTaken(request, bytes, signal)),
    );
  }

  async #sendUntilTaken(
    request: z.input<typeof SampleRequest>,
    bytes: number,
    signal: AbortSignal,
  ): Promise<UntypedApiFuture> {
    const { http } = this.session.backend;
    const headers = { 'X-Tinker-Sampling-Backpressure': '1' };
    const call = postRequest('/api/v1/asample', SampleRequest, request, {
      headers,
      signal,
      finishesAttempt: true,
      handsBack: 429,
    });
    for (;;) {
      await this.#waitOut(signal);
      try {
        return await http.json(call, UntypedApiFuture);
      } catch (error) {
        if (!isStatus(error, 429)) throw error;
        const pause = retryAfterMs(error.headers) ?? (bytes <= LARGE_PROMPT_BYTES ? 1000 : 5000);
        this.session.sampleBackoffUntil = performance.now() + pause;
      }
    }
  }

  async #waitOut(signal: AbortSignal): Promise<void> {
    for (;;) {
      const left = this.session.sampleBackoffUntil - performance.now();
      if (left <= 0) return;
      await sleep(left, signal);
    }
  }

  #withRestraint<T>(bytes: number, signal: AbortSignal, send: () => Promise<T>): Promise<T> {
    const { promptBytes: budget, throttledSampleSubmits } = this.session.backend.limits;
    const recent = performance.now() - this.session.sampleBackoffUntil < RESTRAINT_MS;
    if (!recent) return budget.use(bytes, signal, send);
    return throttledSampleSubmits.use(1, signal, () => budget.use(20 * bytes, signal, send));
  }
}

/** A number that no other client of the sampler has: the server's, or one drawn at random. */
async function newCloneNumber(session: Session, samplerId: string): Promise<bigint> {
  const { http, config } = session.backend;
  if (!config.sample_join_sampling_session) {
    const [random = 0n] = crypto.getRandomValues(new BigUint64Array(1));
    return (random % CLONE_STRIDE) + 1n;
  }
  const request = { sampling_session_id: samplerId };
  const call = postRequest('/api/v1/join_sampling_session', JoinSamplingSessionRequest, request);
  return BigInt((await http.json(call, JoinSamplingSessionResponse)).client_counter);
}

/** A server that ignores what it does not know must not pass for one that did what was asked. */
function checkResponse(request: UnnumberedSample, response: SampleResponse): SampleResponse {
  if (request.prompt_alt_tokens_k && !response.prompt_alt_tokens) {
    throw new TinkerError('the server sent no prompt_alt_tokens; it may not know promptAltTokensK');
  }
  const { prompt_logprobs: scored } = response;
  const lastN = request.prompt_logprobs_last_n;
  if (lastN && scored?.slice(0, -lastN).some((logprob) => logprob !== null)) {
    throw new TinkerError('the server scored the whole prompt; it may not know promptLogprobsLastN');
  }
  return response;
}

/** Gives each sequence the id that the submission's answer promised; the result does not repeat it. */
function withSequenceIds(
  response: SampleResponse,
  ids: readonly string[] | null | undefined,
): SampleResponse {
  if (!ids) return response;
  if (ids.length !== response.sequences.length) {
    const message = `${response.sequences.length} sequences came, ${ids.length} were promised`;
    throw new APIResponseValidationError(message);
  }
  const sequences = response.sequences.map((sequence, index) => ({ ...sequence, sequence_id: ids[index] }));
  return { ...response, sequences };
}
