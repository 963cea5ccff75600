/** A user's own loss: `anneal serve --loss ./my-loss.ts`. */
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { EngineError } from '../engine.ts';
import type { LossDefinition } from './loss.ts';
import { registerLoss } from './registry.ts';
import { stopGradient } from './stop-gradient.ts';

/** What a loss module gets, so that it needs no packages of its own (and cannot bring a second copy of tfjs). */
export interface LossToolkit {
  tf: typeof tf;
  z: typeof z;
  stopGradient: typeof stopGradient;
}

/** Default export, or export `loss`, of a module that `--loss` names. */
export type LossModule = LossDefinition | ((toolkit: LossToolkit) => LossDefinition);

const method = z.custom<(...args: never[]) => unknown>(
  (value) => typeof value === 'function',
  'must be a function',
);

const Definition = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9_]*$/, 'must be lower case letters, digits and underscores'),
  config: z.custom(
    (value) => typeof value === 'object' && value !== null && '_zod' in value,
    'must be a zod schema',
  ),
  inputs: z.record(
    z.string(),
    z.strictObject({
      default: z.number().optional(),
      fill: method.optional(),
      min: z.number().optional(),
      max: z.number().optional(),
    }),
  ),
  allowsTopK: z.boolean().optional(),
  groupSize: z.int().min(1).optional(),
  order: method.optional(),
  baseLogprobsInput: method.optional(),
  validate: method.optional(),
  callScale: method.optional(),
  linearWeights: z.string().optional(),
  compute: method,
});

/**
 * Imports an ES module (.js, .mjs, or .ts with types that Node can strip) and registers the loss it exports.
 * @returns The loss's name.
 * @throws EngineError (user) naming the path and what is wrong with the module.
 */
export async function loadLossModule(file: string): Promise<string> {
  const absolute = path.resolve(file);
  const loss = checkDefinition(fromModule(await importModule(absolute), absolute), absolute);
  registerLoss(loss);
  return loss.name;
}

async function importModule(file: string): Promise<Record<string, unknown>> {
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    const oldNode = (error as NodeJS.ErrnoException).code === 'ERR_UNKNOWN_FILE_EXTENSION';
    const advice = oldNode ? ' Node 22.18 or later runs .ts; before that, compile it to .mjs.' : '';
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError('user', `The loss module ${file} could not be loaded: ${reason}.${advice}`, {
      cause: error,
    });
  }
}

function fromModule(module: Record<string, unknown>, file: string): unknown {
  const exported = module.default ?? module.loss;
  if (exported === undefined) {
    const found = Object.keys(module).join(', ') || 'nothing';
    throw new EngineError(
      'user',
      `The loss module ${file} must export a loss as default or as "loss"; it exports ${found}.`,
    );
  }
  if (typeof exported !== 'function') return exported;
  try {
    return exported({ tf, z, stopGradient } satisfies LossToolkit);
  } catch (error) {
    throw new EngineError('user', `The loss module ${file} threw when it was called: ${String(error)}.`, {
      cause: error,
    });
  }
}

function checkDefinition(exported: unknown, file: string): LossDefinition {
  const parsed = Definition.safeParse(exported);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      ({ path, message }) => `${path.join('.') || 'the export'}: ${message}`,
    );
    throw new EngineError('user', `The loss module ${file} does not export a loss: ${problems.join('; ')}.`);
  }
  const loss = exported as LossDefinition;
  if (loss.linearWeights !== undefined && !Object.hasOwn(loss.inputs, loss.linearWeights)) {
    throw new EngineError(
      'user',
      `The loss module ${file}: linearWeights names "${loss.linearWeights}", which is not among its inputs.`,
    );
  }
  return loss;
}
