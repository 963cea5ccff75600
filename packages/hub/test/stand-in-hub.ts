// A small HTTP server with the parts of the Hugging Face hub's API that downloads use, and ways to misbehave.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

export interface StandInModel {
  files: Record<string, Uint8Array>;
  /** Token that the model's files ask for. */
  gated?: string;
}

export interface StandInHub {
  url: string;
  /** "GET /path" of every request, with its Range if it had one. */
  requests: string[];
  /** Authorization headers that the download host saw. */
  tokensAtDownloadHost: (string | undefined)[];
  models: Record<string, StandInModel>;
  /** Cut the next responses of large files after this many bytes, one number per response. */
  cutAfter: number[];
  ignoreRange: boolean;
  /** The file that is served with other bytes than those listed. */
  corrupt: string;
  close: () => Promise<void>;
}

/** Files of at least this size are large files (Git LFS), listed with SHA-256 and served from the download host. */
const LARGE = 1000;

export async function startStandInHub(): Promise<StandInHub> {
  const hub: StandInHub = {
    ...{ url: '', requests: [], tokensAtDownloadHost: [], models: {}, cutAfter: [] },
    ...{ ignoreRange: false, corrupt: '', close: async () => {} },
  };
  const downloads = await listen((request, response) => serveDownload(hub, request, response));
  const main = await listen((request, response) => {
    hub.requests.push(describe(request));
    serve(hub, request, response, downloads.url);
  });
  hub.url = main.url;
  hub.close = async () => {
    await Promise.all([main.close(), downloads.close()]);
  };
  return hub;
}

async function listen(handler: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${port}`, close };
}

function describe({ method, url, headers }: IncomingMessage): string {
  return `${method} ${url}${headers.range ? ` ${headers.range}` : ''}`;
}

function serve(
  hub: StandInHub,
  request: IncomingMessage,
  response: ServerResponse,
  downloadHost: string,
): ServerResponse {
  const path = new URL(request.url ?? '', hub.url).pathname;
  const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)$/.exec(path);
  const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
  const name = api?.[1] ?? file?.[1] ?? '';
  const model = hub.models[name];
  if (!model) return sendError(response, 401, 'RepoNotFound', 'Invalid username or password.');
  if (api?.[2] === 'revision')
    return sendJson(response, { _id: '1', id: name, sha: COMMIT, lastModified: '2026-01-01' });
  if (api) return sendJson(response, Object.entries(model.files).map(listing));
  if (model.gated && request.headers.authorization !== `Bearer ${model.gated}`) {
    return sendError(response, 401, 'GatedRepo', 'Access to this model is restricted.');
  }
  const content = model.files[file?.[3] ?? ''];
  if (!content || file?.[2] !== COMMIT) return sendError(response, 404, 'EntryNotFound', 'Not found');
  if (content.byteLength < LARGE) return sendContent(hub, request, response, file[3] ?? '', content);
  return response.writeHead(302, { location: `${downloadHost}/${name}/${file[3]}` }).end();
}

function serveDownload(hub: StandInHub, request: IncomingMessage, response: ServerResponse): void {
  hub.requests.push(`download ${describe(request)}`);
  hub.tokensAtDownloadHost.push(request.headers.authorization);
  const [, organisation, name, ...path] = (request.url ?? '').split('/');
  const content = hub.models[`${organisation}/${name}`]?.files[path.join('/')];
  if (content) sendContent(hub, request, response, path.join('/'), content, hub.cutAfter.shift());
  else response.writeHead(404).end();
}

function listing([path, content]: [string, Uint8Array]): object {
  const sha1 = createHash('sha1').update(`blob ${content.byteLength}\0`).update(content).digest('hex');
  const entry = { type: 'file', path, size: content.byteLength, oid: sha1 };
  if (content.byteLength < LARGE) return entry;
  const sha256 = createHash('sha256').update(content).digest('hex');
  return { ...entry, lfs: { oid: sha256, size: content.byteLength, pointerSize: 130 } };
}

function sendContent(
  hub: StandInHub,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  content: Uint8Array,
  cut = Number.POSITIVE_INFINITY,
): ServerResponse {
  const start = hub.ignoreRange ? 0 : Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const body = Buffer.from(content.subarray(start));
  if (hub.corrupt === path) body[body.length - 1] = body[body.length - 1]! ^ 1;
  const headers = { 'content-length': body.byteLength };
  const range = { 'content-range': `bytes ${start}-${content.byteLength - 1}/${content.byteLength}` };
  response.writeHead(start > 0 ? 206 : 200, start > 0 ? { ...headers, ...range } : headers);
  if (cut >= body.byteLength) return response.end(body);
  response.write(body.subarray(0, cut), () => response.destroy());
  return response;
}

function sendJson(response: ServerResponse, value: unknown): ServerResponse {
  return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

function sendError(response: ServerResponse, status: number, code: string, error: string): ServerResponse {
  response.writeHead(status, { 'content-type': 'application/json', 'x-error-code': code });
  return response.end(JSON.stringify({ error }));
}
