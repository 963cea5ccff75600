import { EngineError } from '@anneal/engine';
import { BlobMissingError, type CallDetail, type Outcome } from '@anneal/store';
import { WireFormatError } from '@anneal/types';
import type { FastifyBaseLogger } from 'fastify';
import { ApiError } from '../errors.ts';

type Failed = Extract<Outcome, { state: 'failed' }>;

/** How a request that threw ends. What we did not foresee is logged whole and shown as a server error. */
export function failed(error: unknown, log: FastifyBaseLogger, requestId: string): Failed {
  if (error instanceof EngineError || error instanceof ApiError) {
    if (error.category === 'server') log.error({ err: error, requestId }, 'a request failed');
    return { state: 'failed', error: error.message, category: error.category };
  }
  if (error instanceof WireFormatError) return { state: 'failed', error: error.message, category: 'user' };
  log.error({ err: error, requestId }, 'a request failed unexpectedly');
  const message = error instanceof BlobMissingError ? error.message : 'The server failed; its log says why';
  return { state: 'failed', error: message, category: 'server' };
}

/** A JSON result. */
export function jsonResult(value: Record<string, unknown>, detail?: CallDetail): Outcome {
  const body = Buffer.from(JSON.stringify(value));
  return { state: 'done', resultType: 'json', body, ...(detail ? { detail } : {}) };
}

/** A protobuf result. */
export function protobufResult(body: Uint8Array, detail: CallDetail): Outcome {
  return { state: 'done', resultType: 'protobuf', body, detail };
}
