import { type Command, Option } from 'commander';
import { readConfigFile } from '../config/file.ts';
import { type Resolved, resolveConfig } from '../config/resolve.ts';
import { ServeConfig } from '../config/serve-config.ts';
import { type Setting, settingsOf } from '../config/settings.ts';

interface OwnOptions {
  config?: string;
  printConfig?: boolean;
}

export function serveCommand(program: Command): Command {
  const settings = settingsOf(ServeConfig);
  const command = program
    .createCommand('serve')
    .copyInheritedSettings(program)
    .description('start the server')
    .option(
      '--config <file>',
      'configuration file (env ANNEAL_CONFIG; default: ./anneal.config.json if it is there)',
    )
    .option('--print-config', 'print what applies and where it comes from, and end');
  for (const setting of settings) command.addOption(optionOf(setting));
  return command.action(async (options: OwnOptions & Record<string, unknown>) => {
    const { config: file, printConfig, ...flags } = options;
    const resolved = resolveConfig(ServeConfig, {
      flags,
      env: process.env,
      file: readConfigFile(file ?? (process.env.ANNEAL_CONFIG || undefined)),
    });
    if (printConfig) return printResolved(settings, resolved);
    const { runServer } = await import('../serve/run-server.ts');
    await runServer(resolved.config);
  });
}

function optionOf({ key, flag, env, kind, allowed, description, default: value }: Setting): Option {
  const argument =
    kind === 'boolean'
      ? ' [on|off]'
      : kind === 'map'
        ? ' <name=value>'
        : kind === 'number'
          ? ' <number>'
          : ' <value>';
  const hints = [
    `env ${env}`,
    allowed,
    value === undefined ? undefined : `default: ${JSON.stringify(value)}`,
  ];
  const option = new Option(`${flag}${argument}`, `${description} (${hints.filter(Boolean).join('; ')})`);
  option.attributeName = () => key;
  if (kind !== 'list' && kind !== 'map') return option;
  return option.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]);
}

function printResolved(settings: Setting[], { config, sources }: Resolved<ServeConfig>): void {
  const values: Record<string, unknown> = config;
  const shown = settings.map(({ key, secret }) => {
    const value = values[key];
    return [key, { value: secret && value !== undefined ? '(hidden)' : value, source: sources[key] }];
  });
  process.stdout.write(`${JSON.stringify(Object.fromEntries(shown), null, 2)}\n`);
}
