// Runs a module in a headless browser: it is bundled and served with a page, and calls to the API are passed on from the
// page's own origin. The module ends by calling window.report(text).
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rolldown } from 'rolldown';

const TIMEOUT_MS = 60_000;

const PAGE = `<!doctype html><meta charset="utf-8"><script>
  window.report = (text) => fetch('/report', { method: 'POST', body: text });
  window.onerror = (message) => window.report('error: ' + message);
  window.onunhandledrejection = (event) => window.report('error: ' + event.reason?.stack);
</script><script type="module" src="/entry.js"></script>`;

async function bundleFiles(entry) {
  const bundle = await rolldown({ input: { entry }, platform: 'browser' });
  const { output } = await bundle.generate({ format: 'esm', entryFileNames: 'entry.js' });
  return new Map(output.map((chunk) => [`/${chunk.fileName}`, chunk.code]));
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function passOn(request, response, api) {
  const { host: _host, connection: _connection, 'content-length': _length, ...headers } = request.headers;
  const body = await bodyOf(request);
  const answer = await fetch(api + request.url, {
    method: request.method,
    headers,
    body: body.length > 0 ? body : undefined,
  });
  response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' });
  response.end(Buffer.from(await answer.arrayBuffer()));
}

/** What the module reported. */
export async function runInChromium(entry, api) {
  const files = await bundleFiles(entry);
  let report;
  const reported = new Promise((resolve) => (report = resolve));
  const server = createServer(async (request, response) => {
    if (request.url === '/report') {
      report((await bodyOf(request)).toString());
      response.end();
    } else if (request.url.startsWith('/api/')) await passOn(request, response, api);
    else if (files.has(request.url)) {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(files.get(request.url));
    } else response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const profile = mkdtempSync(join(tmpdir(), 'anneal-chromium-'));
  const url = `http://127.0.0.1:${server.address().port}/`;
  const args = ['--headless=new', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`, url];
  const browser = spawn('chromium', args, { stdio: 'ignore', detached: true });
  const timer = setTimeout(() => report(`error: nothing was reported in ${TIMEOUT_MS} ms`), TIMEOUT_MS);
  try {
    return await reported;
  } finally {
    clearTimeout(timer);
    process.kill(-browser.pid, 'SIGKILL');
    await new Promise((resolve) => browser.on('exit', resolve));
    server.closeAllConnections();
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
