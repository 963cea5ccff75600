import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { usageError } from '../errors.ts';

const DEFAULT_NAME = 'anneal.config.json';

/**
 * Reads the configuration file: the one that is named, or `anneal.config.json` in the working directory if there is one.
 *
 * @throws CliError when a named file is missing, or a file is no JSON object.
 */
export function readConfigFile(
  named?: string,
): { path: string; content: Record<string, unknown> } | undefined {
  const path = resolve(named ?? DEFAULT_NAME);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if (named === undefined && (cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw usageError(`--config: ${path} can't be read (${(cause as Error).message})`, { cause });
  }
  const content = parseObject(text, path);
  return { path, content };
}

function parseObject(text: string, path: string): Record<string, unknown> {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw usageError(`${path} is no JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof content === 'object' && content !== null && !Array.isArray(content)) {
    return content as Record<string, unknown>;
  }
  throw usageError(`${path}: expected a JSON object of settings`);
}
