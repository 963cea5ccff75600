/** Every model family the engine knows, by the `model_type` of config.json. Adding one is a file and a line here. */
import { EngineError } from '../engine.ts';
import type { Architecture } from './architecture.ts';
import { deepseekV3 } from './deepseek-v3.ts';
import { gemma3 } from './gemma3.ts';
import { gptOss } from './gpt-oss.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { olmo2 } from './olmo2.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';
import { qwen35 } from './qwen3-5.ts';
import { qwen35Moe } from './qwen3-5-moe.ts';
import { qwen3Moe } from './qwen3-moe.ts';
import { qwen3Vl } from './qwen3-vl.ts';

const ARCHITECTURES: Architecture[] = [
  llama,
  mistral,
  olmo2,
  qwen2,
  qwen3,
  qwen3Moe,
  qwen3Vl,
  qwen35,
  qwen35Moe,
  gemma3,
  gptOss,
  deepseekV3,
];

/** `model_type` values that can be served. */
export function supportedModelTypes(): string[] {
  return ARCHITECTURES.flatMap((architecture) => [...architecture.modelTypes]);
}

/** @throws EngineError (user) that lists what is supported, for an unknown `model_type`. */
export function findArchitecture(json: unknown): Architecture {
  const modelType = (json as { model_type?: unknown } | null)?.model_type;
  const found = ARCHITECTURES.find((architecture) => architecture.modelTypes.includes(String(modelType)));
  if (found) return found;
  throw new EngineError(
    'user',
    `config.json: model_type ${JSON.stringify(modelType)} is not supported; supported: ${supportedModelTypes().join(', ')}. docs/adding-a-model.md shows how to add a family.`,
  );
}
