import type { Command } from 'commander';
import { CliError } from '../errors.ts';
import { facts, print, table } from '../output/print.ts';
import { addStoreOptions, type StoreOptions, withStore } from '../store-access.ts';

export function keysCommand(program: Command): Command {
  const keys = program
    .createCommand('keys')
    .copyInheritedSettings(program)
    .description("API keys in a server's database; works while it runs and while it does not");
  const command = (name: string, description: string) =>
    addStoreOptions(keys.command(name).description(description));
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
}: StoreOptions & { owner: string; label: string }): Promise<void> {
  const { key, secret } = await withStore(options, (store) => store.keys.create(owner, label));
  const made = { id: key.id, owner, label, key: secret };
  print(options.json, made, () => facts(Object.entries(made)));
}

async function list(options: StoreOptions): Promise<void> {
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

async function revoke(id: string, options: StoreOptions): Promise<void> {
  const revoked = await withStore(options, (store) => store.keys.revoke(id));
  if (!revoked) throw new CliError(`id: no valid key has the id "${id}" (anneal keys list)`);
  print(options.json, { revoked: id }, () => `Revoked ${id}; a running server refuses it within seconds`);
}
