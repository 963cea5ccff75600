// The entry `@anneal/tokenizer/node`: reads a tokenizer from a checkpoint folder.
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { TokenizerError } from './errors.ts';
import { Tokenizer } from './tokenizer.ts';

const EXTRA_TEMPLATES = 'additional_chat_templates';
const jsonTemplateSchema = z.object({ chat_template: z.string() });

/**
 * Loads the tokenizer of a checkpoint folder: `tokenizer.json`, and where they are there `tokenizer_config.json`,
 * `special_tokens_map.json`, `chat_template.jinja` or `.json`, and `additional_chat_templates/*.jinja`.
 *
 * @throws TokenizerError naming the file that is missing or malformed
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const tokenizer = await readJson(folder, 'tokenizer.json');
  if (tokenizer === undefined) {
    throw new TokenizerError(
      `${folder}: no tokenizer.json; convert the tokenizer with transformers' save_pretrained`,
    );
  }
  const [named, config] = await Promise.all([
    readJson(folder, 'special_tokens_map.json'),
    readJson(folder, 'tokenizer_config.json'),
  ]);
  const files = {
    tokenizer,
    config: { ...objectOrEmpty(named), ...objectOrEmpty(config) },
    chatTemplates: await readChatTemplates(folder),
  };
  try {
    return new Tokenizer(files);
  } catch (error) {
    if (error instanceof TokenizerError)
      throw new TokenizerError(`${folder}: ${error.message}`, { cause: error });
    throw error;
  }
}

async function readChatTemplates(folder: string): Promise<Record<string, string>> {
  const templates: Record<string, string> = {};
  const jinja = await readText(path.join(folder, 'chat_template.jinja'));
  const json = jinja === undefined ? await readJson(folder, 'chat_template.json') : undefined;
  if (jinja !== undefined) templates.default = jinja;
  else if (json !== undefined) templates.default = parseJsonTemplate(folder, json);
  for (const file of await readdir(path.join(folder, EXTRA_TEMPLATES)).catch(() => [])) {
    if (!file.endsWith('.jinja')) continue;
    templates[path.basename(file, '.jinja')] = await readFile(
      path.join(folder, EXTRA_TEMPLATES, file),
      'utf8',
    );
  }
  return templates;
}

function parseJsonTemplate(folder: string, json: unknown): string {
  const parsed = jsonTemplateSchema.safeParse(json);
  if (parsed.success) return parsed.data.chat_template;
  throw new TokenizerError(`${folder}: chat_template.json: ${z.prettifyError(parsed.error)}`);
}

async function readJson(folder: string, file: string): Promise<unknown> {
  const text = await readText(path.join(folder, file));
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new TokenizerError(
      `${folder}: ${file} is not JSON: ${error instanceof Error ? error.message : error}`,
    );
  }
}

async function readText(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function objectOrEmpty(value: unknown): object {
  return typeof value === 'object' && value !== null ? value : {};
}
