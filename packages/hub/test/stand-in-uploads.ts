// A small HTTP server with the parts of the Hugging Face hub's API that uploads use: repositories, preupload, Git LFS, commits.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';

export const TOKEN = 'hf_write';
export const UPLOADED = 'abcdef0123456789abcdef0123456789abcdef01';

export interface StandInRepository {
  private: boolean;
  files: Record<string, Buffer>;
  /** Summaries of its commits. */
  commits: string[];
}

export interface StandInUploads {
  url: string;
  repositories: Record<string, StandInRepository>;
  close(): Promise<void>;
}

type Answer = { status: number; body?: object };
type Route = (match: RegExpExecArray, body: Buffer, url: string) => Answer;

/** Files of these kinds are large ones, as `.gitattributes` of a new repository has it. */
const LARGE = /\.(safetensors|bin)$/;

export async function startStandInUploads(): Promise<StandInUploads> {
  const repositories: Record<string, StandInRepository> = {};
  const stored = new Map<string, Buffer>();
  const of = (name: string | undefined) => repositories[name ?? ''];
  const routes: [string, RegExp, Route][] = [
    [
      'POST',
      /^\/api\/repos\/create$/,
      (_match, body, url) => {
        const { organization, name, visibility } = JSON.parse(String(body));
        const id = `${organization}/${name}`;
        if (of(id)) return { status: 409, body: { error: 'You already created this model repo' } };
        repositories[id] = { private: visibility === 'private', files: {}, commits: [] };
        return { status: 200, body: { url: `${url}/${id}`, name: id, id } };
      },
    ],
    [
      'GET',
      /^\/api\/models\/([^/]+\/[^/]+)\/revision\/HEAD$/,
      ([, name]) => {
        const found = of(name);
        if (!found) return { status: 404, body: { error: 'Repository not found' } };
        const rest = { likes: 0, downloads: 0, gated: false, lastModified: '2026-01-01T00:00:00.000Z' };
        return { status: 200, body: { _id: '1', id: name, private: found.private, ...rest } };
      },
    ],
    [
      'HEAD',
      /^\/([^/]+\/[^/]+)\/raw\/main\/(.+)$/,
      ([, name, file = '']) => ({ status: of(name)?.files[file] ? 200 : 404 }),
    ],
    [
      'POST',
      /^\/api\/models\/([^/]+\/[^/]+)\/preupload\/main$/,
      (_match, body) => {
        const { files } = JSON.parse(String(body)) as { files: { path: string; size: number }[] };
        const modes = files.map(({ path }) => ({ path, uploadMode: LARGE.test(path) ? 'lfs' : 'regular' }));
        return { status: 200, body: { files: modes } };
      },
    ],
    [
      'POST',
      /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/,
      (_match, body, url) => {
        const { objects } = JSON.parse(String(body)) as { objects: { oid: string; size: number }[] };
        const answered = objects.map(({ oid, size }) => ({
          oid,
          size,
          ...(stored.has(oid) ? {} : { actions: { upload: { href: `${url}/storage/${oid}` } } }),
        }));
        return { status: 200, body: { transfer: 'basic', objects: answered } };
      },
    ],
    [
      'PUT',
      /^\/storage\/([0-9a-f]{64})$/,
      ([, oid = ''], body) => {
        if (createHash('sha256').update(body).digest('hex') !== oid) return { status: 400 };
        stored.set(oid, body);
        return { status: 200 };
      },
    ],
    [
      'POST',
      /^\/api\/models\/([^/]+\/[^/]+)\/commit\/main$/,
      ([, name], body, url) => {
        const repository = of(name);
        if (!repository) return { status: 404, body: { error: 'Repository not found' } };
        const lines = String(body)
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line));
        for (const { key, value } of lines) {
          if (key === 'header') repository.commits.push(value.summary);
          if (key === 'file') repository.files[value.path] = Buffer.from(value.content, value.encoding);
          if (key !== 'lfsFile') continue;
          const content = stored.get(value.oid);
          if (!content || content.byteLength !== value.size)
            return { status: 400, body: { error: `${value.path} was not uploaded` } };
          repository.files[value.path] = content;
        }
        return {
          status: 200,
          body: {
            success: true,
            commitOid: UPLOADED,
            commitUrl: `${url}/${name}/commit/${UPLOADED}`,
            hookOutput: '',
          },
        };
      },
    ],
  ];
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '', 'http://localhost');
    const body = await readAll(request);
    const answer = (): Answer => {
      // Storage takes links that are signed; all else asks for the token.
      if (!pathname.startsWith('/storage/') && request.headers.authorization !== `Bearer ${TOKEN}`)
        return { status: 401, body: { error: 'Invalid username or password.' } };
      for (const [method, pattern, route] of routes) {
        const match = pattern.exec(pathname);
        if (match && request.method === method) return route(match, body, url);
      }
      return { status: 404, body: { error: `no ${request.method} ${pathname} here` } };
    };
    const { status, body: json } = answer();
    response
      .writeHead(status, { 'content-type': 'application/json' })
      .end(json ? JSON.stringify(json) : undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return { url, repositories, close };
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
