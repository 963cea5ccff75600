/**
 * Qwen3-VL: Qwen3's decoder, whose rotary knows rows and columns of images, below a vision tower that also speaks to its
 * first layers. LoRA adapts the language model; the tower is frozen.
 */
import { z } from 'zod';
import { visionConfig } from '../vision/vision-config.ts';
import type { Architecture } from './architecture.ts';
import { DecoderJson, decoderConfig, parseDecoderJson, RopeParameters } from './config.ts';
import type { DenseConfig } from './dense-decoder.ts';
import { qwen3, refuseOptions } from './qwen3.ts';
import { textPart } from './text-part.ts';

/** Qwen3-VL's own, for checkpoints that leave them out. */
const IMAGE_TOKEN = 151_655;
const DEEPSTACK = [8, 16, 24];
const SECTIONS = [24, 20, 20];

const MropeParameters = RopeParameters.extend({
  mrope_interleaved: z.literal(true).optional(),
  mrope_section: z.array(z.number().int().min(0)).length(3).optional(),
}).nullish();

const TextJson = DecoderJson.extend({ rope_parameters: MropeParameters, rope_scaling: MropeParameters });

function parseConfig(json: unknown): DenseConfig {
  const parsed = parseDecoderJson(textPart(json).text, TextJson);
  refuseOptions(parsed);
  const base = decoderConfig(parsed);
  const { mrope_section: sections = SECTIONS } = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  return {
    ...base,
    rope: { ...base.rope, sections },
    intermediateSize: parsed.intermediate_size,
    vision: visionConfig(json, base.hiddenSize, { imageTokenId: IMAGE_TOKEN, deepstack: DEEPSTACK }),
  };
}

/** Qwen3's name of a tensor or module, where the language model is a part. */
function inPart(name: string): string {
  return name.replace(/^model\./, 'model.language_model.');
}

function namesInPart<N extends Record<string, unknown>>(names: N): N {
  const entries = Object.entries(names).map(([key, name]) => [key, inPart(name as string)]);
  return Object.fromEntries(entries) as N;
}

export const qwen3Vl: Architecture<DenseConfig> = {
  ...qwen3,
  modelTypes: ['qwen3_vl'],
  parseConfig,
  outerTensors: (config) => namesInPart(qwen3.outerTensors(config)),
  layerTensors: (config, layer) => namesInPart(qwen3.layerTensors(config, layer)),
  layerModules: (config, layer) =>
    qwen3.layerModules(config, layer).map((module) => ({ ...module, path: inPart(module.path) })),
};
