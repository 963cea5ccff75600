// A GGUF file of the Llama family to a Hugging Face checkpoint folder: bf16 safetensors, config and tokenizer files.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { float32ToBfloat16, type TensorToWrite, writeSafetensors } from '@anneal/safetensors';
import { z } from 'zod';
import { GgufError } from './errors.ts';
import { GgufFile, type GgufTensor } from './gguf-file.ts';
import { buildTokenizerConfig, buildTokenizerJson } from './gguf-tokenizer.ts';

export interface ConvertProgress {
  /** Called after each tensor with the bytes of the GGUF file converted so far, and their total. */
  readonly onProgress?: (convertedBytes: number, totalBytes: number) => void;
}

/**
 * Writes `config.json`, `generation_config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json` to
 * `folder`. Quantised weights are expanded to float32 and rounded to bfloat16; one tensor is in memory at a time.
 *
 * @throws GgufError when the file is malformed, or its architecture or tokenizer is of another kind
 */
export async function convertGguf(
  file: string,
  folder: string,
  { onProgress }: ConvertProgress = {},
): Promise<void> {
  const source = await GgufFile.open(file);
  try {
    const config = buildConfig(source);
    const tokenizer = buildTokenizerJson(source);
    const generation = {
      bos_token_id: config.bos_token_id,
      eos_token_id: config.eos_token_id,
      pad_token_id: config.pad_token_id,
      _from_model_config: true,
    };
    await mkdir(folder, { recursive: true });
    await writeJson(path.join(folder, 'config.json'), config);
    await writeJson(path.join(folder, 'generation_config.json'), generation);
    await writeJson(path.join(folder, 'tokenizer.json'), tokenizer);
    await writeJson(path.join(folder, 'tokenizer_config.json'), buildTokenizerConfig(source, tokenizer));
    const tensors = tensorsToWrite(source, config, onProgress);
    await writeSafetensors(path.join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  } finally {
    await source.close();
  }
}

async function writeJson(file: string, value: object): Promise<void> {
  await writeFile(file, `${JSON.stringify(value, null, 2)}\n`);
}

const count = z.number().int().nonnegative();

type LlamaConfig = ReturnType<typeof buildConfig>;

/** config.json as transformers writes it for `LlamaForCausalLM`. */
function buildConfig(source: GgufFile) {
  const architecture = source.metadata('general.architecture', z.string());
  if (architecture !== 'llama') {
    throw new GgufError(`${source.path}: architecture "${architecture}" cannot be converted (llama can)`);
  }
  const llama = <T>(key: string, schema: z.ZodType<T>) => source.metadata(`llama.${key}`, schema);
  const tokenId = (name: string) => source.metadata(`tokenizer.ggml.${name}_token_id`, count);
  const hidden = llama('embedding_length', count);
  const heads = llama('attention.head_count', count);
  const headSize = hidden / heads;
  if (llama('rope.dimension_count', count) !== headSize) {
    throw new GgufError(`${source.path}: rotary embeddings over a part of the head cannot be converted`);
  }
  return {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: tokenId('bos'),
    eos_token_id: tokenId('eos'),
    head_dim: headSize,
    hidden_act: 'silu',
    hidden_size: hidden,
    initializer_range: 1 / 24,
    intermediate_size: llama('feed_forward_length', count),
    max_position_embeddings: llama('context_length', count),
    mlp_bias: false,
    model_type: 'llama',
    num_attention_heads: heads,
    num_hidden_layers: llama('block_count', count),
    num_key_value_heads: llama('attention.head_count_kv', count),
    pad_token_id: tokenId('padding'),
    pretraining_tp: 1,
    // GGUF keeps it as float32, 9.99999974e-6; six digits give back the number it was written from.
    rms_norm_eps: Number(llama('attention.layer_norm_rms_epsilon', z.number()).toPrecision(6)),
    rope_interleaved: false,
    rope_scaling: null,
    rope_theta: llama('rope.freq_base', z.number()),
    tie_word_embeddings: !source.tensors.has('output.weight'),
    torch_dtype: 'bfloat16',
    use_cache: true,
    vocab_size: llama('vocab_size', count),
  };
}

function tensorsToWrite(
  source: GgufFile,
  config: LlamaConfig,
  onProgress: ConvertProgress['onProgress'],
): TensorToWrite[] {
  const totalBytes = [...source.tensors.values()].reduce((sum, tensor) => sum + tensor.byteLength, 0);
  let convertedBytes = 0;
  return [...source.tensors.values()].map((tensor) => ({
    name: checkpointName(tensor.name, source.path),
    dtype: 'BF16',
    shape: tensor.shape,
    data: async () => {
      const values = float32ToBfloat16(await source.readFloat32(tensor.name));
      convertedBytes += tensor.byteLength;
      onProgress?.(convertedBytes, totalBytes);
      return unpermuted(tensor, values, config);
    },
  }));
}

const TOP_NAMES: Record<string, string> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

const LAYER_NAMES: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

function checkpointName(name: string, file: string): string {
  const top = TOP_NAMES[name];
  if (top) return top;
  const [, layer, kind] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  const module = kind && LAYER_NAMES[kind];
  if (module) return `model.layers.${layer}.${module}.weight`;
  throw new GgufError(`${file}: tensor "${name}" has no place in a Llama checkpoint`);
}

/**
 * llama.cpp stores the rows of q and k so that the two halves of each rotary pair are neighbours; checkpoints have all
 * first halves of a head before the second halves.
 */
function unpermuted(
  tensor: GgufTensor,
  values: Uint16Array<ArrayBuffer>,
  config: LlamaConfig,
): Uint16Array<ArrayBuffer> {
  const heads = tensor.name.endsWith('.attn_q.weight')
    ? config.num_attention_heads
    : tensor.name.endsWith('.attn_k.weight')
      ? config.num_key_value_heads
      : 0;
  const [rows, width] = tensor.shape;
  if (heads === 0 || rows === undefined || width === undefined) return values;
  const half = rows / heads / 2;
  const out = new Uint16Array(values.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / (2 * half));
    const within = row % (2 * half);
    const source = head * 2 * half + (within % half) * 2 + Math.floor(within / half);
    out.set(values.subarray(source * width, (source + 1) * width), row * width);
  }
  return out;
}
