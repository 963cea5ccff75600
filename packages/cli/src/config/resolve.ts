/** Puts flags, environment, configuration file and defaults together: the first of them that names a key wins. */
import type { z } from 'zod';
import { CliError, usageError } from '../errors.ts';
import { type Setting, settingsOf } from './settings.ts';

export type Source = 'flag' | 'env' | 'file' | 'default';

export interface Layers {
  /** By key; as commander hands them over: text, or a list of texts for repeatable flags. */
  flags: Record<string, unknown>;
  env: Record<string, string | undefined>;
  file?: { path: string; content: Record<string, unknown> };
}

export interface Resolved<Config> {
  config: Config;
  sources: Record<string, Source>;
}

interface Found {
  value: unknown;
  source: Source;
  /** How the user knows it, for messages. */
  name: string;
}

/**
 * Parses the winning values with `schema`.
 *
 * @throws CliError with one line for each wrong value: its flag, variable or file key, what is allowed, what was given.
 */
export function resolveConfig<Schema extends z.ZodObject>(
  schema: Schema,
  layers: Layers,
): Resolved<z.output<Schema>> {
  const settings = settingsOf(schema);
  refuseUnknownFileKeys(settings, layers);
  const found = new Map(settings.map((setting) => [setting.key, find(setting, layers)]));
  const given = [...found].filter(([, entry]) => entry !== undefined);
  const parsed = schema.safeParse(Object.fromEntries(given.map(([key, entry]) => [key, entry?.value])));
  if (!parsed.success)
    throw usageError(parsed.error.issues.map((issue) => explain(issue, settings, found)).join('\n'));
  const sources = Object.fromEntries(settings.map(({ key }) => [key, found.get(key)?.source ?? 'default']));
  return { config: parsed.data, sources };
}

function find(setting: Setting, { flags, env, file }: Layers): Found | undefined {
  const flag = flags[setting.key];
  if (flag !== undefined)
    return { value: fromTexts(setting, flag, setting.flag), source: 'flag', name: setting.flag };
  const variable = [setting.env, setting.commonEnv].find((name) => name !== undefined && env[name]);
  if (variable !== undefined) {
    return { value: fromText(setting, env[variable] ?? '', variable), source: 'env', name: variable };
  }
  const value = file?.content[setting.key];
  return value === undefined ? undefined : { value, source: 'file', name: `${setting.key} in ${file?.path}` };
}

function fromTexts(setting: Setting, given: unknown, name: string): unknown {
  if (!Array.isArray(given)) return typeof given === 'string' ? fromText(setting, given, name) : given;
  return setting.kind === 'map' ? pairs(given, name) : given;
}

/** Lists and maps in one text are comma-separated. Text that is no number stays text, which the schema then refuses. */
function fromText(setting: Setting, text: string, name: string): unknown {
  switch (setting.kind) {
    case 'number':
      return text.trim() === '' || Number.isNaN(Number(text)) ? text : Number(text);
    case 'boolean':
      return (
        { true: true, '1': true, yes: true, on: true, false: false, '0': false, no: false, off: false }[
          text.toLowerCase()
        ] ?? text
      );
    case 'list':
      return split(text);
    case 'map':
      return pairs(split(text), name);
    default:
      return text;
  }
}

function split(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

function pairs(texts: string[], name: string): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=');
      if (at <= 0 || at === text.length - 1) throw usageError(`${name}: expected NAME=VALUE, got "${text}"`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}

function refuseUnknownFileKeys(settings: Setting[], { file }: Layers): void {
  const known = new Set(settings.map(({ key }) => key));
  const unknown = Object.keys(file?.content ?? {}).filter((key) => !known.has(key) && key !== '$schema');
  if (unknown.length === 0) return;
  throw new CliError(
    `${file?.path}: unknown key ${unknown.map((key) => `"${key}"`).join(', ')}. Known: ${[...known].join(', ')}.`,
    {
      exitCode: 2,
    },
  );
}

function explain(
  issue: z.core.$ZodIssue,
  settings: Setting[],
  found: Map<string, Found | undefined>,
): string {
  const setting = settings.find(({ key }) => key === issue.path[0]);
  if (!setting) return issue.message;
  const entry = found.get(setting.key);
  const name = entry?.name ?? `${setting.flag} (or ${setting.env})`;
  const given = setting.secret ? 'a value that is hidden here' : JSON.stringify(entry?.value);
  const allowed = setting.allowed ? `; allowed: ${setting.allowed}` : '';
  return entry ? `${name}: ${issue.message}${allowed}; got ${given}` : `${name}: ${issue.message}${allowed}`;
}
