/**
 * Runs a module in a headless browser: it is bundled and served with a page, and calls to the API are passed on from the
 * page's own origin. The module ends by calling `window.report(text)`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { rolldown } from 'rolldown';

const TIMEOUT_MS = 120_000;

const PAGE = `<!doctype html><meta charset="utf-8"><script>
  window.report = (text) => fetch('/report', { method: 'POST', body: text });
  window.onerror = (message) => window.report('error: ' + message);
  window.onunhandledrejection = (event) => window.report('error: ' + event.reason?.stack);
</script><script type="module" src="/entry.js"></script>`;

async function bundleFiles(entry: string): Promise<Map<string, string>> {
  const bundle = await rolldown({ input: { entry }, platform: 'browser' });
  const { output } = await bundle.generate({ format: 'esm', entryFileNames: 'entry.js' });
  return new Map(output.map((file) => [`/${file.fileName}`, file.type === 'chunk' ? file.code : '']));
}

async function passOn(request: IncomingMessage, response: ServerResponse, api: string): Promise<void> {
  const { host: _host, connection: _connection, 'content-length': _length, ...headers } = request.headers;
  const body = await buffer(request);
  const answer = await fetch(api + request.url, {
    method: request.method,
    headers: headers as Record<string, string>,
    body: body.length > 0 ? new Uint8Array(body) : undefined,
  });
  response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' });
  response.end(Buffer.from(await answer.arrayBuffer()));
}

async function sendFile(response: ServerResponse, path: string): Promise<void> {
  const bytes = await readFile(path).catch(() => undefined);
  response.writeHead(bytes ? 200 : 404).end(bytes);
}

async function showPage(browser: string, url: string, reported: Promise<string>): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), 'anneal-chromium-'));
  const args = ['--headless=new', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`, url];
  const child = spawn(browser, args, { stdio: 'ignore', detached: true });
  const failed = once(child, 'error').then(([error]) => `error: ${error}`);
  const late = AbortSignal.timeout(TIMEOUT_MS);
  const silent = once(late, 'abort').then(() => `error: nothing was reported in ${TIMEOUT_MS} ms`);
  try {
    return await Promise.race([reported, failed, silent]);
  } finally {
    if (child.pid !== undefined) {
      const ended = once(child, 'exit');
      process.kill(-child.pid, 'SIGKILL');
      await ended;
    }
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * What the module reported.
 *
 * @param api the server that calls below `/api/` are passed on to
 * @param files a folder whose files lie below `/files/`
 */
export async function runInChromium(
  browser: string,
  entry: string,
  api: string,
  files: string,
): Promise<string> {
  const modules = await bundleFiles(entry);
  let report = (_text: string) => {};
  const reported = new Promise<string>((resolve) => {
    report = resolve;
  });
  const serve = async (request: IncomingMessage, response: ServerResponse) => {
    const url = request.url ?? '/';
    if (url === '/report') {
      report((await buffer(request)).toString());
      response.end();
    } else if (url.startsWith('/api/')) await passOn(request, response, api);
    else if (url.startsWith('/files/')) await sendFile(response, join(files, basename(url)));
    else if (modules.has(url)) {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(modules.get(url));
    } else response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
  };
  const server = createServer((request, response) => void serve(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    return await showPage(browser, `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, reported);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
