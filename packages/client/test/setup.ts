import { onTestFinished } from 'vitest';
import { ServiceClient, type ServiceClientOptions } from '../src/index.ts';
import { type ReferenceOptions, ReferenceServer } from './reference-server.ts';

/** Delays too short to notice, and an end soon enough for a test. */
export const FAST = { retry: { initialDelayMs: 1, maxDelayMs: 5, maxElapsedMs: 5000 } };

export const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** A server for one test, and a client of it. */
export async function start(options: ReferenceOptions = {}, client: ServiceClientOptions = {}) {
  const server = new ReferenceServer(options);
  const baseUrl = await server.listen();
  onTestFinished(() => server.close());
  const service = new ServiceClient({ baseUrl, apiKey: 'tml-test', logger: silent, ...FAST, ...client });
  return { server, baseUrl, service };
}

/** A cross-entropy datum whose targets are its tokens. */
export const datumOf = (...tokens: number[]) => ({
  model_input: { chunks: [{ type: 'encoded_text' as const, tokens }] },
  loss_fn_inputs: { target_tokens: tokens, weights: tokens.map(() => 1) },
});
