/** Options of the commands that work on a server's store, and the store that they name. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { withStoreBeside } from '@anneal/server';
import type { Store } from '@anneal/store';
import type { Command } from 'commander';
import { readConfigFile } from './config/file.ts';
import { resolveConfig } from './config/resolve.ts';
import { ServeConfig } from './config/serve-config.ts';
import { CliError } from './errors.ts';

export interface StoreOptions {
  dataDir?: string;
  databaseUrl?: string;
  config?: string;
  json?: boolean;
}

export function addStoreOptions(command: Command): Command {
  return command
    .option('--data-dir <folder>', "the server's data folder (env ANNEAL_DATA_DIR)")
    .option(
      '--database-url <url>',
      "the server's PostgreSQL database (env ANNEAL_DATABASE_URL, DATABASE_URL)",
    )
    .option('--config <file>', "the server's configuration file (env ANNEAL_CONFIG)")
    .option('--json', 'print JSON');
}

/** Runs `work` on the store of the server with this configuration, whether it runs or not. */
export async function withStore<T>(
  { config: named, dataDir, databaseUrl }: StoreOptions,
  work: (store: Store, config: ServeConfig) => Promise<T>,
): Promise<T> {
  const file = readConfigFile(named ?? (process.env.ANNEAL_CONFIG || undefined));
  const flags = { dataDir, databaseUrl };
  const { config } = resolveConfig(ServeConfig, { flags, env: process.env, file });
  const folder = resolve(config.dataDir);
  if (!config.databaseUrl && !existsSync(folder)) {
    throw new CliError(`--data-dir: ${folder} does not exist; give the folder that the server uses`);
  }
  return await withStoreBeside(config, (store) => work(store, config));
}
