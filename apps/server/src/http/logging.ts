import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { LoggerOptions } from 'pino';
import type { ServerConfig } from '../config.ts';

export const REQUEST_ID_HEADER = 'x-request-id';

/** Ids of others are taken over where they cannot be mistaken for something else in a log. */
const FOREIGN_ID = /^[\w.:-]{1,64}$/;

/** How log lines are written: no headers, no bodies, and addresses without their query, which may sign a download. */
export function logOptions({ logLevel }: Pick<ServerConfig, 'logLevel'>): LoggerOptions {
  return {
    level: logLevel,
    serializers: {
      req: ({ method, url, ip }: FastifyRequest) => ({ method, path: pathOf(url), ip }),
    },
  };
}

/** The id of a request in each of its log lines: its own `x-request-id`, or a new one. */
export function requestId({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const given = headers[REQUEST_ID_HEADER];
  return typeof given === 'string' && FOREIGN_ID.test(given) ? given : randomUUID();
}

/** Puts the request's id into each answer, so that a person can name it and an operator find it. */
export function sendRequestIds(http: FastifyInstance): void {
  http.addHook('onRequest', async (request, reply) => void reply.header(REQUEST_ID_HEADER, request.id));
}

function pathOf(url: string): string {
  return url.split('?', 1)[0] ?? url;
}
