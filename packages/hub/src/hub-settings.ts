import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';

/** How to reach the Hugging Face hub and where its files are kept, from the environment variables that Python's huggingface_hub reads. */
export interface HubSettings {
  /** Base URL without a slash at the end (`HF_ENDPOINT`). */
  readonly endpoint: string;
  /** Folder of `models--org--name` folders (`HF_HUB_CACHE`, or `hub` in `HF_HOME`). */
  readonly cacheDir: string;
  /** `HF_TOKEN`, or the token that `hf auth login` stored. */
  readonly token: string | undefined;
  /** `HF_HUB_OFFLINE`: use the cache alone. */
  readonly offline: boolean;
}

/** Reads the settings. Variables: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables */
export async function readHubSettings(env: NodeJS.ProcessEnv): Promise<HubSettings> {
  const home = env.HF_HOME || path.join(env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'huggingface');
  const token =
    env.HF_TOKEN ||
    env.HUGGING_FACE_HUB_TOKEN ||
    (await storedToken(env.HF_TOKEN_PATH || path.join(home, 'token')));
  return {
    endpoint: (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, ''),
    cacheDir: path.resolve(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || path.join(home, 'hub')),
    token: token?.trim() || undefined,
    offline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ''),
  };
}

async function storedToken(file: string): Promise<string | undefined> {
  return readFile(file, 'utf8').catch(() => undefined);
}
