/** Mistral: Llama's layer, in the first models with a sliding window on every layer (Jiang et al. 2023, arXiv:2310.06825). */
import { z } from 'zod';
import type { Architecture } from './architecture.ts';
import { DecoderJson, parseDecoderJson } from './config.ts';
import type { DenseConfig } from './dense-decoder.ts';
import { llama } from './llama.ts';

interface MistralConfig extends DenseConfig {
  window?: number;
}

const MistralJson = DecoderJson.extend({
  // Files that say nothing mean 4096, as in transformers; null means none.
  sliding_window: z.number().int().positive().nullable().default(4096),
});

function parseConfig(json: unknown): MistralConfig {
  const { sliding_window: window } = parseDecoderJson(json, MistralJson);
  return { ...llama.parseConfig(json), ...(window === null ? {} : { window }) };
}

export const mistral: Architecture<MistralConfig> = {
  ...llama,
  modelTypes: ['mistral'],
  parseConfig,
  layerAttention: ({ rope, window }) => ({ rope, window }),
};
