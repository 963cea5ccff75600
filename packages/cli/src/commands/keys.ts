import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createStore, LocalBlobs, openPostgres, openSqlite, type Store } from '@anneal/store';
import type { Command } from 'commander';
import { readConfigFile } from '../config/file.ts';
import { resolveConfig } from '../config/resolve.ts';
import { ServeConfig } from '../config/serve-config.ts';
import { CliError } from '../errors.ts';
import { facts, print, table } from '../output/print.ts';

interface KeyOptions {
  dataDir?: string;
  databaseUrl?: string;
  config?: string;
  json?: boolean;
}

export function keysCommand(program: Command): Command {
  const keys = program
    .createCommand('keys')
    .copyInheritedSettings(program)
    .description("API keys in a server's database; works while it runs and while it does not");
  const command = (name: string, description: string) =>
    keys
      .command(name)
      .description(description)
      .option('--data-dir <folder>', "the server's data folder (env ANNEAL_DATA_DIR)")
      .option(
        '--database-url <url>',
        "the server's PostgreSQL database (env ANNEAL_DATABASE_URL, DATABASE_URL)",
      )
      .option('--config <file>', "the server's configuration file (env ANNEAL_CONFIG)")
      .option('--json', 'print JSON');
  command('create', 'make a key; it is shown once')
    .option('--owner <name>', 'whose runs and checkpoints it sees', 'default')
    .option('--label <text>', 'what it is for', '')
    .action(create);
  command('list', 'all keys, without their secrets').action(list);
  command('revoke', 'make a key invalid').argument('<id>', 'id as listed').action(revoke);
  return keys;
}

async function create({
  owner,
  label,
  ...options
}: KeyOptions & { owner: string; label: string }): Promise<void> {
  const { key, secret } = await withStore(options, (store) => store.keys.create(owner, label));
  const made = { id: key.id, owner, label, key: secret };
  print(options.json, made, () => facts(Object.entries(made)));
}

async function list(options: KeyOptions): Promise<void> {
  const keys = await withStore(options, (store) => store.keys.list());
  const time = (at: number | null) => (at === null ? '' : new Date(at).toISOString());
  print(options.json, { keys }, () =>
    table(
      ['id', 'owner', 'created', 'revoked', 'label'],
      keys.map((key) => [key.id, key.owner, time(key.createdAt), time(key.revokedAt), key.label]),
      'No keys yet: the first start of the server makes one.',
    ),
  );
}

async function revoke(id: string, options: KeyOptions): Promise<void> {
  const revoked = await withStore(options, (store) => store.keys.revoke(id));
  if (!revoked) throw new CliError(`id: no valid key has the id "${id}" (anneal keys list)`);
  print(options.json, { revoked: id }, () => `Revoked ${id}; a running server refuses it within seconds`);
}

async function withStore<T>(
  { config: named, json: _json, ...flags }: KeyOptions,
  work: (store: Store) => Promise<T>,
): Promise<T> {
  const file = readConfigFile(named ?? (process.env.ANNEAL_CONFIG || undefined));
  const { dataDir, databaseUrl } = resolveConfig(ServeConfig, { flags, env: process.env, file }).config;
  const folder = resolve(dataDir);
  if (!databaseUrl && !existsSync(folder)) {
    throw new CliError(`--data-dir: ${folder} does not exist; give the folder that the server uses`);
  }
  const database = databaseUrl
    ? await openPostgres(databaseUrl)
    : await openSqlite(join(folder, 'anneal.sqlite'));
  const store = createStore(database, await LocalBlobs.open(folder));
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
