/** Makes the pages that are not written: the API reference, the client's reference, and the sources that pages link to. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Application } from 'typedoc';
import { openApiDocument } from './openapi.ts';
import { apiPages } from './openapi-pages.ts';
import { GENERATED, REPOSITORY } from './pages.ts';
import { linkedSources, sourcePage } from './source-pages.ts';

const PACKAGE = resolve(import.meta.dirname, '..');
const ROOT = join(PACKAGE, REPOSITORY);

function write(file: string, text: string): void {
  const path = join(ROOT, GENERATED, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

async function writeClientReference(): Promise<void> {
  const app = await Application.bootstrapWithPlugins({ options: join(PACKAGE, 'typedoc.json') });
  const project = await app.convert();
  if (project) await app.generateOutputs(project);
  if (!project || app.logger.hasErrors() || app.logger.hasWarnings()) {
    throw new Error('the reference of the client could not be made: its messages stand above');
  }
}

for (const folder of ['api', 'client', 'source']) {
  rmSync(join(ROOT, GENERATED, folder), { recursive: true, force: true });
}
const document = await openApiDocument();
write('openapi.json', JSON.stringify(document, null, 2));
for (const [file, text] of apiPages(document)) write(`api/${file}`, text);
for (const file of linkedSources(ROOT)) write(`source/${file}.md`, sourcePage(ROOT, file));
await writeClientReference();
