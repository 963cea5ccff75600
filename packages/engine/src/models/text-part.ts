/** Reading the config.json of checkpoints that have a text part beside others, such as one that sees images. */
import { z } from 'zod';
import { parseDecoderJson } from './config.ts';

/** What a checkpoint with several parts says outside of `text_config`. */
const OuterJson = z.looseObject({
  model_type: z.string(),
  text_config: z.looseObject({}).optional(),
  tie_word_embeddings: z.boolean().optional(),
  eos_token_id: z.unknown().optional(),
  quantization_config: z.unknown().optional(),
});

/** The text part's fields with what stands outside of it, and what names of its tensors begin with. */
export function textPart(json: unknown): { text: unknown; root: string } {
  const outer = parseDecoderJson(json, OuterJson);
  const { text_config: text } = outer;
  if (!text) return { text: json, root: 'model' };
  return {
    text: {
      ...text,
      model_type: outer.model_type,
      tie_word_embeddings: outer.tie_word_embeddings ?? text.tie_word_embeddings,
      eos_token_id: text.eos_token_id ?? outer.eos_token_id,
      quantization_config: outer.quantization_config ?? text.quantization_config,
    },
    root: 'model.language_model',
  };
}
