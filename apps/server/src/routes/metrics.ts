import { createHash, timingSafeEqual } from 'node:crypto';
import type { KeyStore } from '@anneal/store';
import type { FastifyInstance } from 'fastify';
import type { ServerConfig } from '../config.ts';
import { addAuth, secretOf } from '../http/auth.ts';
import type { Metrics } from '../services/metrics.ts';

const UNMATCHED = '(none)';

/**
 * Measures every request, and serves `/metrics`. An API key sees the use of its own owner; the configured `metricsKey`,
 * that of all.
 */
export async function addMetrics(
  http: FastifyInstance,
  metrics: Metrics,
  keys: KeyStore,
  { metricsKey }: Pick<ServerConfig, 'metricsKey'>,
): Promise<void> {
  http.addHook('onResponse', async (request, reply) => {
    const { url } = request.routeOptions;
    metrics.answered({
      method: url === undefined ? UNMATCHED : request.method,
      route: url ?? UNMATCHED,
      status: reply.statusCode,
      seconds: reply.elapsedTime / 1000,
    });
  });
  await http.register(async (scope) => {
    const isOperator = (secret: string): boolean => metricsKey !== undefined && isSame(secret, metricsKey);
    addAuth(scope, keys, isOperator);
    scope.get('/metrics', { schema: { hide: true } }, async ({ owner, headers }, reply) => {
      const all = isOperator(secretOf(headers) ?? '');
      const text = await metrics.text((name) => all || name === owner);
      return reply.type(metrics.contentType).header('cache-control', 'no-store').send(text);
    });
  });
}

/** Whether two secrets are the same, in a time that tells nothing about either. */
function isSame(a: string, b: string): boolean {
  const [first, second] = [a, b].map((text) => createHash('sha256').update(text).digest());
  return timingSafeEqual(first!, second!);
}
