import { CopyWeightsRequest, CopyWeightsResponse } from '@anneal/types';
import type * as z from 'zod';
import type { Backend } from './backend.ts';
import type { Call } from './http.ts';
import { postRequest } from './wire-request.ts';

/** A copy keeps one idempotency key over all repetitions, so that it is made once. */
export function copyWeightsCall(
  request: z.input<typeof CopyWeightsRequest>,
  accessToken: string | undefined,
  signal: AbortSignal,
): Call {
  const headers: Record<string, string> = { 'X-Idempotency-Key': crypto.randomUUID() };
  if (accessToken) headers['X-Tinker-Weights-Access-Token'] = accessToken;
  return postRequest('/api/v1/copy_weights', CopyWeightsRequest, request, { headers, signal });
}

/** Path of the copy. */
export async function copyWeightsResult(backend: Backend, call: Call): Promise<string> {
  return (await backend.http.json(call, CopyWeightsResponse)).tinker_path;
}
