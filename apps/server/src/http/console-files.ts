import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fastifyStatic from '@fastify/static';
import type { FastifyInstance, FastifyReply } from 'fastify';

/** Pages of the console: each address shows the same document, which looks at the address. Nothing else is caught. */
const PAGES = ['/', '/runs', '/runs/*', '/playground', '/samples', '/samples/*', '/account'];

/** Scripts, styles and fonts come from here only, and nothing may put the console into a frame. */
const SECURITY_HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "font-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
};

const NOT_BUILT = `The server runs, but its web console is not built.
In a checkout, build it with: npm run build
To serve no console, start with: --console false
`;

/** Where the built console is, if it is built. */
export function findConsole(): string | undefined {
  const manifest = fileURLToPath(import.meta.resolve('@anneal/console/package.json'));
  const folder = join(dirname(manifest), 'dist');
  return existsSync(join(folder, 'index.html')) ? folder : undefined;
}

/** Serves the console's pages and files; without a folder, pages say how to build it. */
export async function addConsole(http: FastifyInstance, folder: string | undefined): Promise<void> {
  const setHeaders = (reply: FastifyReply) => reply.headers(SECURITY_HEADERS);
  const options = { schema: { hide: true } };
  if (folder === undefined) {
    for (const page of PAGES) {
      http.get(page, options, (_request, reply) =>
        setHeaders(reply).code(503).type('text/plain; charset=utf-8').send(NOT_BUILT),
      );
    }
    return;
  }
  await http.register(fastifyStatic, {
    root: folder,
    serve: false,
    cacheControl: false,
  });
  for (const page of PAGES) {
    http.get(page, options, (_request, reply) =>
      setHeaders(reply).header('cache-control', 'no-cache').sendFile('index.html'),
    );
  }
  http.get<{ Params: { '*': string } }>('/assets/*', options, (request, reply) =>
    setHeaders(reply)
      .header('cache-control', 'public, max-age=31536000, immutable')
      .sendFile(`assets/${request.params['*']}`),
  );
  http.get('/favicon.svg', options, (_request, reply) =>
    setHeaders(reply).header('cache-control', 'public, max-age=86400').sendFile('favicon.svg'),
  );
}
