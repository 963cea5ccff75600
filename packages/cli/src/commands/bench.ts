import { ServerConfig } from '@anneal/server';
import type { Command } from 'commander';
import { z } from 'zod';
import { DEFAULT_MODEL } from '../config/serve-config.ts';
import { usageError } from '../errors.ts';
import { print } from '../output/print.ts';

const Options = z.strictObject({
  model: z.string().min(1),
  precision: ServerConfig.shape.precision,
  case: z.array(z.string().min(1)).default([]),
  repeat: z.coerce.number().int().min(1).max(1000).optional(),
  quick: z.boolean().default(false),
  url: z.url().optional(),
  apiKey: z.string().optional(),
  profile: z.string().min(1).optional(),
  lines: z.boolean().optional(),
  json: z.boolean().default(false),
});

export type BenchCommandOptions = z.infer<typeof Options>;

export function benchCommand(program: Command): Command {
  return program
    .createCommand('bench')
    .copyInheritedSettings(program)
    .description('measure how fast training, sampling and the server are on this machine')
    .option(
      '--model <model>',
      'hub name or checkpoint folder; with --url, the name it is served under',
      DEFAULT_MODEL,
    )
    .option(
      '--precision <precision>',
      `as for anneal serve: ${ServerConfig.shape.precision.unwrap().options.join(', ')}`,
    )
    .option(
      '--case <beginning>',
      'only cases whose name begins so, as train/4x256 or decode; may be repeated',
      collect,
    )
    .option('--repeat <number>', 'timed runs of each case (default: 5; with --quick 3)')
    .option('--quick', 'fewer runs, and no long contexts')
    .option('--url <url>', 'measure the server there instead of this machine')
    .option('--api-key <key>', 'its key (env TINKER_API_KEY)')
    .option(
      '--profile <file>',
      'write a trace of the engine for Perfetto or chrome://tracing; the server is left out',
    )
    .option(
      '--lines',
      'do the work that lines of standard input ask for, as tools/bench/compare.mjs writes them',
    )
    .option('--json', 'print JSON')
    .action(async (given: Record<string, unknown>) => {
      const options = parse(given);
      if (options.lines) return (await import('../bench/bench-lines.ts')).benchLines(options);
      const [{ bench }, { formatResult }] = await Promise.all([
        import('../bench/bench.ts'),
        import('../bench/report.ts'),
      ]);
      const result = await bench(options, (line) => process.stderr.write(`anneal: ${line}\n`));
      print(options.json, result, () => formatResult(result));
    });
}

function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}

function parse(given: Record<string, unknown>): BenchCommandOptions {
  const parsed = Options.safeParse(given);
  if (!parsed.success)
    throw usageError(
      parsed.error.issues
        .map(
          ({ path, message }) =>
            `--${String(path[0])}: ${message}; got ${JSON.stringify(given[String(path[0])])}`,
        )
        .join('\n'),
    );
  if (parsed.data.url !== undefined && given.precision !== undefined)
    throw usageError('--precision: the server at --url decides it');
  if (parsed.data.url !== undefined && parsed.data.profile !== undefined)
    throw usageError('--profile: only the engine of this machine can be looked into, not a server at --url');
  return parsed.data;
}
