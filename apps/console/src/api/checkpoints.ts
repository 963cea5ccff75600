import * as z from 'zod';
import { get, send } from './request.ts';

const Path = /^tinker:\/\/(?<run>[^/]+)\/(?<id>.+)$/;
const Link = z.object({ url: z.string() });

/** The checkpoint's address in the API, from its `tinker://` path. */
function addressOf(path: string): string {
  const { run = '', id = '' } = Path.exec(path)?.groups ?? {};
  return `/api/v1/training_runs/${encodeURIComponent(run)}/checkpoints/${id}`;
}

export async function setPublished(path: string, published: boolean): Promise<void> {
  await send(`${addressOf(path)}/publish`, { method: published ? 'POST' : 'DELETE' });
}

/** @param seconds From now on; null keeps it for ever. */
export async function setTtl(path: string, seconds: number | null): Promise<void> {
  await send(`${addressOf(path)}/ttl`, { method: 'PUT', body: { ttl_seconds: seconds } });
}

export async function deleteCheckpoint(path: string): Promise<void> {
  await send(addressOf(path), { method: 'DELETE' });
}

/** A link that works for some time without a key. */
export async function downloadLink(path: string): Promise<string> {
  const { url } = await get(`${addressOf(path)}/archive`, Link);
  // The server may be known under another name than the one that this page came from.
  const { pathname, search } = new URL(url);
  return pathname + search;
}
