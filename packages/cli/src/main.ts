#!/usr/bin/env node
import { CommanderError } from 'commander';
import { CliError } from './errors.ts';
import { buildProgram } from './program.ts';

/** One message on stderr; the stack only for those who ask for it. */
function fail(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`anneal: error: ${message}\n`);
  if (process.env.ANNEAL_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = error instanceof CliError ? error.exitCode : 1;
}

try {
  await buildProgram().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else fail(error);
}
