import { Readable } from 'node:stream';
import {
  CheckpointArchiveUrlResponse,
  ExternalWeightsUrlsResponse,
  TraceExportResponse,
} from '@anneal/types';
import type { FastifyReply, FastifyRequest } from 'fastify';
import * as z from 'zod';
import { parseRange } from '../downloads/byte-range.ts';
import type { Download } from '../downloads/downloads.ts';
import { ApiError } from '../errors.ts';
import { CHECKPOINT, checkpointParams, keyOf } from './checkpoints.ts';
import { answers, type Routes } from './route.ts';

const tags = ['downloads'];
const sessionParams = z.object({ session_id: z.string() });
const signed = z.object({ expires: z.string().optional(), signature: z.string().optional() });

export const downloadRoutes: Routes = async (
  app,
  { services: { checkpoints, sessions }, downloads, config },
) => {
  app.get(
    `${CHECKPOINT}/external_weights_urls`,
    { schema: { tags, params: checkpointParams, response: answers(ExternalWeightsUrlsResponse) } },
    async (request) => {
      const checkpoint = await checkpoints.findReadable(keyOf(request.params), request.owner);
      if (checkpoint.kind !== 'external_weights') {
        throw new ApiError(
          'invalid_request',
          `"${checkpoint.kind}/${checkpoint.name}" is no export: call save_weights_external`,
        );
      }
      const { urls, expires } = downloads.fileLinks(checkpoint, baseUrlOf(request, config.publicUrl));
      return { urls, expires: expires.toISOString() };
    },
  );

  app.get(
    `${CHECKPOINT}/archive`,
    { schema: { tags, params: checkpointParams, response: answers(CheckpointArchiveUrlResponse) } },
    async (request, reply) => {
      const checkpoint = await checkpoints.findReadable(keyOf(request.params), request.owner);
      const { url, expires } = downloads.archiveLink(checkpoint, baseUrlOf(request, config.publicUrl));
      return reply.header('expires', expires.toUTCString()).send({ url, expires: expires.toISOString() });
    },
  );

  app.get(
    '/sessions/:session_id/trace_export',
    { schema: { tags, params: sessionParams, response: answers(TraceExportResponse) } },
    async (request) => {
      const { id } = await sessions.get(request.params.session_id, request.owner);
      const url = downloads.traceLink(id, baseUrlOf(request, config.publicUrl));
      return { status: 'ready' as const, url };
    },
  );

  app.get(
    '/downloads/sessions/:session_id/trace.json',
    { config: { public: true }, schema: { tags, params: sessionParams, querystring: signed } },
    async (request, reply) => {
      downloads.verify(pathOf(request), request.query);
      return await send(request, reply, await downloads.trace(request.params.session_id));
    },
  );

  app.get(
    '/downloads/:run_id/:kind/:name/archive.tar',
    { config: { public: true }, schema: { tags, params: checkpointParams, querystring: signed } },
    async (request, reply) => {
      downloads.verify(pathOf(request), request.query);
      return await send(request, reply, await downloads.archive(keyOf(request.params)));
    },
  );

  app.get(
    '/downloads/:run_id/:kind/:name/files/:file',
    {
      config: { public: true },
      schema: { tags, params: checkpointParams.extend({ file: z.string() }), querystring: signed },
    },
    async (request, reply) => {
      downloads.verify(pathOf(request), request.query);
      return await send(request, reply, await downloads.file(keyOf(request.params), request.params.file));
    },
  );
};

/** The signed part of a link, as it was sent. */
function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? '';
}

/** Where the client reached us, unless the configuration knows better. */
function baseUrlOf(request: FastifyRequest, publicUrl: string | undefined): string {
  return publicUrl?.replace(/\/+$/, '') ?? `${request.protocol}://${request.host}`;
}

async function send(request: FastifyRequest, reply: FastifyReply, download: Download): Promise<FastifyReply> {
  const range = parseRange(request.headers.range, download.size);
  reply.type(download.type).header('accept-ranges', 'bytes');
  reply.header('content-disposition', `attachment; filename*=UTF-8''${encodeURIComponent(download.name)}`);
  reply.header('content-length', range ? range.end - range.start + 1 : download.size);
  if (range) reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${download.size}`);
  if (request.method === 'HEAD') return reply.send(Readable.from([]));
  return reply.send(await download.open(range));
}
