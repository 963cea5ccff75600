/** An adapter as PEFT loads it, ready to be uploaded. */
import { existsSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import { z } from 'zod';
import { CliError, usageError } from '../errors.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const CARD = 'README.md';
/** What the API names otherwise than PEFT does: experts, blocks of fused maps, the head of an export. */
const NOT_PEFT = /\.experts\.w[123]\.|\.in_proj_[qkv]\.|\.unembed_tokens\./;

const Config = z.looseObject({ r: z.number(), lora_alpha: z.number() });

export interface AdapterFiles {
  /** Local files by the names that they are uploaded under. */
  files: Record<string, string>;
  rank: number;
  alpha: number;
}

/**
 * The files of the adapter in `folder`, with a configuration that names its base as the hub does.
 *
 * @param scratch where a changed file may be written
 * @throws CliError when there is no adapter, or PEFT would not load it
 */
export async function adapterFiles(folder: string, base: string, scratch: string): Promise<AdapterFiles> {
  for (const file of [CONFIG, WEIGHTS]) {
    if (!existsSync(join(folder, file))) throw usageError(`${folder} is no LoRA adapter: it has no ${file}`);
  }
  requirePeftNames(join(folder, WEIGHTS));
  const config = Config.parse(JSON.parse(readFileSync(join(folder, CONFIG), 'utf8')));
  const named = join(scratch, CONFIG);
  await writeFile(named, `${JSON.stringify({ ...config, base_model_name_or_path: base }, null, 2)}\n`);
  const card = join(folder, CARD);
  const files = {
    [CONFIG]: named,
    [WEIGHTS]: join(folder, WEIGHTS),
    ...(existsSync(card) ? { [CARD]: card } : {}),
  };
  return { files, rank: config.r, alpha: config.lora_alpha };
}

function requirePeftNames(file: string): void {
  const reader = openSafetensors(file);
  try {
    const odd = reader.tensors.find(({ name }) => NOT_PEFT.test(name));
    if (odd === undefined) return;
    throw new CliError(
      `"${odd.name}" is not as PEFT names it: of models with experts or fused maps, push what save_weights_external saved; of others, a sampler checkpoint`,
    );
  } finally {
    reader.close();
  }
}
