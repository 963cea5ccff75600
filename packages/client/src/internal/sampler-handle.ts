/** Texts that name a sampler, in the Python SDK's format: base64url of JSON. */
import { ClientConfigResponse, ClientDynamicConfigResponse } from '@anneal/types';
import * as z from 'zod';
import { type ClientOptions, resolveOptions } from '../core/options.ts';
import { Backend } from './backend.ts';
import { Http } from './http.ts';
import { Session } from './session.ts';

const SamplerHandle = z.object({
  session_id: z.string().min(1),
  sampling_session_id: z.string().min(1),
  base_model: z.string(),
  record_stability_info: z.boolean().default(false),
  holder: z.object({
    base_url: z.string(),
    default_headers_overrides: z.record(z.string(), z.string()).default({}),
    client_config: ClientConfigResponse,
    client_dynamic_config: ClientDynamicConfigResponse,
    api_key: z.string().nullish(),
  }),
});

export type SamplerHandle = z.infer<typeof SamplerHandle>;

export function writeHandle(handle: SamplerHandle): string {
  const bytes = new TextEncoder().encode(JSON.stringify(handle));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_');
}

function parseHandle(handle: string): SamplerHandle {
  try {
    const binary = atob(handle.replaceAll('-', '+').replaceAll('_', '/'));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    return SamplerHandle.parse(JSON.parse(new TextDecoder().decode(bytes)));
  } catch (error) {
    throw new TypeError(`this is no sampler handle: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * The session and sampler behind a handle. The session is the one that made the sampler; it is kept alive from here too.
 *
 * @throws TypeError when the text is no handle.
 */
export function readHandle(
  handle: string,
  options: ClientOptions,
): { session: Session; parsed: SamplerHandle } {
  const parsed = parseHandle(handle);
  const { base_url, default_headers_overrides, client_config, client_dynamic_config } = parsed.holder;
  const resolved = resolveOptions({
    baseUrl: base_url,
    ...options,
    headers: { ...default_headers_overrides, ...options.headers },
  });
  const backend = new Backend(resolved, new Http(resolved), client_config);
  return { session: new Session(backend, parsed.session_id, client_dynamic_config), parsed };
}
