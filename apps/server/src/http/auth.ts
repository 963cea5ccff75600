import type { KeyStore } from '@anneal/store';
import type { FastifyInstance } from 'fastify';
import { ApiError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose key came with the request; empty on public routes. */
    owner: string;
    apiKeyId: string;
  }
  interface FastifyContextConfig {
    /** Answers without a key. */
    public?: boolean;
    /** Kind of a request with a place in its model's order, which it takes even when it is refused. */
    sequenced?: string;
  }
}

/** A revoked key works at most this long. */
const TRUST_MS = 5000;
const MAX_KNOWN = 10_000;

interface Known {
  owner: string;
  id: string;
  until: number;
}

/**
 * Refuses requests without a valid `X-API-Key`. Some clients send `Authorization: Bearer` instead.
 *
 * @param isOther Accepts a secret that is no API key; its requests have no owner.
 */
export function addAuth(
  app: FastifyInstance,
  keys: KeyStore,
  isOther: (secret: string) => boolean = () => false,
): void {
  const known = new Map<string, Known>();
  app.decorateRequest('owner', '');
  app.decorateRequest('apiKeyId', '');
  app.addHook('onRequest', async (request, reply) => {
    if (request.routeOptions.config.public) return;
    const secret = secretOf(request.headers);
    if (secret !== undefined && isOther(secret)) return;
    const key = secret === undefined ? undefined : await find(secret);
    if (!key) {
      reply.header('www-authenticate', 'ApiKey');
      const problem = secret === undefined ? 'X-API-Key is missing' : 'X-API-Key is no key of this server';
      throw new ApiError('unauthenticated', problem);
    }
    request.owner = key.owner;
    request.apiKeyId = key.id;
  });

  async function find(secret: string): Promise<Known | undefined> {
    const cached = known.get(secret);
    if (cached && cached.until > Date.now()) return cached;
    known.delete(secret);
    const key = await keys.find(secret);
    if (!key) return undefined;
    if (known.size >= MAX_KNOWN) known.clear();
    const entry = { owner: key.owner, id: key.id, until: Date.now() + TRUST_MS };
    known.set(secret, entry);
    return entry;
  }
}

/** The key that came with a request. */
export function secretOf(headers: Record<string, string | string[] | undefined>): string | undefined {
  const key = headers['x-api-key'];
  if (typeof key === 'string' && key !== '') return key;
  return /^Bearer (?<token>\S+)$/i.exec(String(headers.authorization ?? ''))?.groups?.token;
}
