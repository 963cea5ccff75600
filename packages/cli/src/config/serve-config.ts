/**
 * The settings of `anneal serve`: the server's own, with models, aliases and losses in the form in which a person
 * names them.
 */
import { ServerConfig } from '@anneal/server';
import { z } from 'zod';

export const DEFAULT_MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct';

const { databaseUrl, logLevel, ...serverSettings } = ServerConfig.omit({
  models: true,
  aliases: true,
  lossModules: true,
}).shape;

export const ServeConfig = z.strictObject({
  model: z
    .array(z.string().min(1))
    .min(1)
    .default([DEFAULT_MODEL])
    .describe('A model to serve: hub name, folder, or NAME=FOLDER; may be repeated'),
  alias: z
    .record(z.string(), z.string())
    .default({})
    .describe('A further name of a model: NAME=MODEL or NAME=FOLDER; may be repeated'),
  loss: z
    .array(z.string().min(1))
    .default([])
    .describe('A JavaScript module whose exported losses are added to the built-in ones; may be repeated'),
  ...serverSettings,
  databaseUrl: databaseUrl.meta({ ...databaseUrl.meta(), commonEnv: 'DATABASE_URL' }),
  // At info every request is a line, which would bury what a person wants to read in the terminal.
  logLevel: logLevel
    .unwrap()
    .default('warn')
    .describe('What is written to the log; info has a line per request'),
});

export type ServeConfig = z.infer<typeof ServeConfig>;
