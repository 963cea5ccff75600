/**
 * A proxy that harms traffic: errors before and after the server acted, cut connections, duplicated, slow and reordered
 * requests and answers, lost samples, in an order that a seed decides.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Fault =
  | 'none'
  | 'error_before'
  | 'error_after'
  | 'timeout_status'
  | 'rate_limit'
  | 'cut_before'
  | 'cut_after'
  | 'half_answer'
  | 'twice'
  | 'late_copy'
  | 'slow'
  | 'overtaken'
  | 'empty_400'
  | 'gone';

/** Everything that can happen to a request; `gone` happens to polls for samples only. */
export const FAULTS: Fault[] = [
  'error_before',
  'error_after',
  'timeout_status',
  'rate_limit',
  'cut_before',
  'cut_after',
  'half_answer',
  'twice',
  'late_copy',
  'slow',
  'overtaken',
  'empty_400',
  'gone',
];

/** Longest wait for an answer that overtakes another. */
const OVERTAKE_MS = 100;

/** Numbers in [0, 1) from a seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class FaultProxy {
  readonly counts = new Map<Fault, number>();
  readonly #target: string;
  readonly #rate: number;
  readonly #random: () => number;
  /** Answers that are held until another has gone out. */
  readonly #held = new Set<() => void>();
  readonly #server = createServer((request, response) => {
    this.#serve(request, response).catch(() => response.destroy());
  });

  /** @param rate share of the requests that are harmed */
  constructor(target: string, rate: number, seed: number) {
    this.#target = target;
    this.#rate = rate;
    this.#random = seededRandom(seed);
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pick(isSamplePoll: boolean): Fault {
    if (this.#random() >= this.#rate) return 'none';
    const possible = isSamplePoll ? FAULTS : FAULTS.filter((fault) => fault !== 'gone');
    return possible[Math.floor(this.#random() * possible.length)] ?? 'none';
  }

  /** Waits until another answer has gone out. */
  #overtaken(): Promise<void> {
    return new Promise((resolve) => {
      this.#held.add(resolve);
      setTimeout(resolve, OVERTAKE_MS);
    });
  }

  #letHeldGo(): void {
    for (const release of this.#held) release();
    this.#held.clear();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const isPoll = request.url?.endsWith('/retrieve_future') ?? false;
    const fault = this.#pick(isPoll && body.toString().includes(':sample:'));
    this.counts.set(fault, (this.counts.get(fault) ?? 0) + 1);
    const refuse = (status: number, headers: Record<string, string> = {}) =>
      response
        .writeHead(status, { 'content-type': 'application/json', ...headers })
        .end('{"detail":"fault"}');
    if (fault === 'error_before') return void refuse(503);
    if (fault === 'timeout_status') return void refuse(408);
    if (fault === 'gone') return void refuse(410);
    if (fault === 'rate_limit') return void refuse(429, { 'retry-after-ms': '1' });
    if (fault === 'empty_400') return void response.writeHead(400, { 'content-length': '0' }).end();
    if (fault === 'cut_before') return void response.destroy();
    if (fault === 'slow') await new Promise((resolve) => setTimeout(resolve, 5 + this.#random() * 20));
    if (fault === 'twice') await this.#forward(request, body);
    const answer = await this.#forward(request, body);
    if (fault === 'late_copy') setTimeout(() => void this.#forward(request, body).catch(() => undefined), 30);
    if (fault === 'overtaken') await this.#overtaken();
    if (fault === 'error_after') return void refuse(500);
    if (fault === 'cut_after') return void response.destroy();
    response.writeHead(answer.status, answer.headers);
    if (fault === 'half_answer' && answer.body.length > 1) {
      response.write(answer.body.subarray(0, answer.body.length / 2), () => response.destroy());
      return;
    }
    response.end(answer.body);
    this.#letHeldGo();
  }

  async #forward(request: IncomingMessage, body: Buffer) {
    const { host: _host, connection: _connection, 'content-length': _length, ...headers } = request.headers;
    const answer = await fetch(`${this.#target}${request.url}`, {
      method: request.method,
      headers: headers as Record<string, string>,
      body: body.length > 0 ? body : undefined,
    });
    const bytes = Buffer.from(await answer.arrayBuffer());
    const type = answer.headers.get('content-type');
    return {
      status: answer.status,
      headers: { 'content-length': String(bytes.length), ...(type && { 'content-type': type }) },
      body: bytes,
    };
  }
}
