/** The OpenAPI document of the server, without a server. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Engine } from '@anneal/engine';
import { buildApp, ServerConfig } from '@anneal/server';
import { createStore, LocalBlobs, openSqlite } from '@anneal/store';
import type { OpenApiDocument } from './openapi-pages.ts';

/** Builds the application over an empty store and an engine that has no model, and asks it. */
export async function openApiDocument(): Promise<OpenApiDocument> {
  const folder = await mkdtemp(join(tmpdir(), 'anneal-docs-'));
  const store = createStore(await openSqlite(join(folder, 'anneal.sqlite')), await LocalBlobs.open(folder));
  try {
    const config = ServerConfig.parse({ models: [{ name: 'none', folder }] });
    const engine = { baseModels: async () => [] } satisfies Partial<Engine> as unknown as Engine;
    const { http } = await buildApp({ store, engine, config });
    const answer = await http.inject('/openapi.json');
    await http.close();
    return answer.json();
  } finally {
    await store.close();
    await rm(folder, { recursive: true });
  }
}
