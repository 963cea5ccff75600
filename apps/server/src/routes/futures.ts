import {
  CancelFutureRequest,
  CompleteMetadataResponse,
  decodeForwardBackwardOutput,
  decodeSampleResponse,
  FutureRetrieveRequest,
  FuturesRetrieveRequest,
  FuturesRetrieveResponse,
  RequestFailedResponse,
  TryAgainResponse,
  wire,
} from '@anneal/types';
import type { FastifyReply } from 'fastify';
import * as z from 'zod';
import { plainJson } from '../wire/plain-json.ts';
import { answers, body, type Routes } from './route.ts';

const tags = ['futures'];
const PROTOBUF = 'application/x-protobuf';
const MAX_BATCH_WAIT_MS = 30_000;
const CLONE_SPAN = 10n ** 9n;

const Result = z.union([RequestFailedResponse, CompleteMetadataResponse, z.looseObject({})]);

export const futureRoutes: Routes = async (app, { services: { futures, sampling, samplers }, config }) => {
  const waitMs = config.pollSeconds * 1000;
  const threshold = config.metadataThresholdKiB * 1024;

  app.post(
    '/retrieve_future',
    {
      schema: {
        tags,
        body: body(FutureRetrieveRequest),
        response: { ...answers(Result), 408: wire(TryAgainResponse) },
      },
    },
    async ({ owner, headers, body: { request_id: id, allow_metadata_only: metadata } }, reply) => {
      const found = await futures.retrieve(id, owner, waitMs, untilClosed(reply));
      if (found.state === 'pending') {
        return reply.code(408).send({ type: 'try_again', request_id: id, queue_state: 'active' });
      }
      if (found.state === 'failed') {
        futures.markRead(id);
        return reply.send({ error: found.error, category: found.category });
      }
      if (metadata && found.size > threshold) {
        return reply.send({ status: 'complete_metadata', response_payload_size: found.size });
      }
      const result = await futures.body(id);
      futures.markRead(id);
      if (found.resultType === 'json') return sendBytes(reply, 'application/json', result);
      if (String(headers.accept ?? '').includes(PROTOBUF)) return sendBytes(reply, PROTOBUF, result);
      const decode = found.kind === 'sample' ? decodeSampleResponse : decodeForwardBackwardOutput;
      return sendBytes(reply, 'application/json', Buffer.from(JSON.stringify(plainJson(decode(result)))));
    },
  );

  app.post(
    '/retrieve_futures',
    { schema: { tags, body: body(FuturesRetrieveRequest), response: answers(FuturesRetrieveResponse) } },
    async (request, reply) => {
      const { target, prev_cursor: cursor, timeout, retrieved_request_ids: read } = request.body;
      await samplers.get(target.sampling_session_id, request.owner);
      for (const id of read) futures.markRead(id);
      const wait = timeout == null ? waitMs : Math.min(timeout * 1000, MAX_BATCH_WAIT_MS);
      const found = await futures.completions(target.sampling_session_id, {
        cursor,
        waitMs: wait,
        accept: (row) => (row.seq ?? 0n) / CLONE_SPAN === target.cloned_sampler_id,
        signal: untilClosed(reply),
      });
      const completions = found.rows.map((row) =>
        row.state === 'done'
          ? {
              state: 'finished' as const,
              request_id: row.requestId,
              response_payload_uncompressed_size: row.resultSize,
            }
          : { state: 'failed' as const, request_id: row.requestId },
      );
      return { completions, cursor: found.cursor };
    },
  );

  app.post(
    '/cancel_future',
    { schema: { tags, body: body(CancelFutureRequest) } },
    async (request, reply) => {
      sampling.cancel(request.owner, request.body.request_id);
      return reply.code(204).send();
    },
  );
};

/** The stored bytes are the answer; they go out as they are. */
function sendBytes(reply: FastifyReply, type: string, bytes: Uint8Array): FastifyReply {
  return reply.type(type).send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

/** One reason for all: making an error for each request costs more than the request. */
const CLOSED = new Error('The client has gone away');

/** Aborts when the client has gone away. */
function untilClosed(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once('close', () => controller.abort(CLOSED));
  return controller.signal;
}
