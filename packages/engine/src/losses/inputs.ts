/** What a request brings to a loss, checked and laid out on the host: config, datums, padded inputs. No tensors. */
import { z } from 'zod';
import { type EngineDatum, EngineError, type HostTensor } from '../engine.ts';
import type { LossConfig, LossDefinition, LossInput } from './loss.ts';

/** @throws EngineError (user) naming key, value and what is allowed. */
export function parseLossConfig<Config extends LossConfig>(
  definition: LossDefinition<Config>,
  config: Record<string, number | string>,
): Config {
  const parsed = definition.config.safeParse(config);
  if (parsed.success) return parsed.data;
  const allowed = describeKeys(definition.config);
  const problems = parsed.error.issues.map((issue) => {
    if (issue.code === 'unrecognized_keys') {
      const known = [...allowed.keys()].join(', ') || 'none';
      return `loss_fn_config.${issue.keys.join(', ')} is unknown; keys of loss_fn "${definition.name}": ${known}.`;
    }
    const key = issue.path.join('.');
    if (issue.code === 'custom') return `loss_fn_config.${key}: ${issue.message}.`;
    const range = allowed.get(String(issue.path[0])) ?? issue.message;
    if (!(key in config)) return `loss_fn_config.${key} is missing; it must be ${range}.`;
    return `loss_fn_config.${key} is ${quoted(config[key]!)}; it must be ${range}.`;
  });
  throw new EngineError('user', problems.join(' '));
}

function quoted(value: number | string): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** What each key of a config schema may be, in words. */
function describeKeys(schema: z.ZodType): Map<string, string> {
  const { properties = {} } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  return new Map(
    Object.entries(properties).flatMap(([key, property]) =>
      typeof property === 'object' ? [[key, describeValues(property)]] : [],
    ),
  );
}

function describeValues(schema: z.core.JSONSchema.JSONSchema): string {
  const initial = schema.default === undefined ? '' : ` (default ${JSON.stringify(schema.default)})`;
  if (schema.enum) return `one of ${schema.enum.map((value) => JSON.stringify(value)).join(', ')}${initial}`;
  const bounds = [
    schema.minimum !== undefined && `at least ${schema.minimum}`,
    schema.exclusiveMinimum !== undefined && `above ${schema.exclusiveMinimum}`,
    schema.maximum !== undefined && `at most ${schema.maximum}`,
    schema.exclusiveMaximum !== undefined && `below ${schema.exclusiveMaximum}`,
  ].filter(Boolean);
  const kind = schema.type === 'number' || schema.type === 'integer' ? 'a finite number' : `a ${schema.type}`;
  return `${[kind, bounds.join(' and ')].filter(Boolean).join(' ')}${initial}`;
}

/** Values as float32; 64-bit integers lose what float32 cannot hold. */
export function toFloat32({ data }: HostTensor): Float32Array {
  return data instanceof Float32Array ? data : Float32Array.from(data as ArrayLike<number | bigint>, Number);
}

/** K of a datum's `target_tokens`: 1 for [T]. */
export function targetsPerPosition(datum: EngineDatum): number {
  return datum.inputs.target_tokens?.shape[1] ?? 1;
}

/**
 * @param vocabSize Ids must be below it.
 * @param maxLength Largest number of tokens of a datum.
 * @throws EngineError (user) naming datum, field, position and value of the first problem.
 */
export function checkDatums<Config extends LossConfig>(
  definition: LossDefinition<Config>,
  config: Config,
  data: EngineDatum[],
  vocabSize: number,
  maxLength: number,
): void {
  if (data.length === 0) throw new EngineError('user', 'data is empty; it must have at least one datum.');
  data.forEach((datum, index) => {
    const at = `data[${index}]`;
    checkTokens(datum, at, vocabSize, maxLength);
    const shape = checkTargets(definition, datum, at, vocabSize);
    for (const name of Object.keys(datum.inputs)) {
      if (name === 'target_tokens' || Object.hasOwn(definition.inputs, name)) continue;
      refuse(
        `${at}.loss_fn_inputs.${name}`,
        `is not an input of loss_fn "${definition.name}"`,
        inputNames(definition),
      );
    }
    for (const [name, input] of Object.entries(definition.inputs)) {
      const field = `${at}.loss_fn_inputs.${name}`;
      const tensor = datum.inputs[name];
      if (tensor) checkValues(tensor, shape, input, field);
      else if (
        name !== definition.baseLogprobsInput?.(config) &&
        fillValue(input, datum, config) === undefined
      ) {
        refuse(field, `is missing; loss_fn "${definition.name}" needs it`, `shape [${shape.join(', ')}]`);
      }
    }
  });
}

function refuse(field: string, problem: string, allowed: string): never {
  throw new EngineError('user', `${field} ${problem} (${allowed}).`);
}

function inputNames(definition: LossDefinition): string {
  return `inputs: ${['target_tokens', ...Object.keys(definition.inputs)].join(', ')}`;
}

function checkTokens({ tokens }: EngineDatum, at: string, vocabSize: number, maxLength: number): void {
  if (tokens.length === 0) refuse(`${at}.model_input`, 'is empty', 'at least one token');
  if (tokens.length > maxLength) {
    refuse(`${at}.model_input`, `has ${tokens.length} tokens`, `at most ${maxLength}, the model's context`);
  }
  checkIds(tokens, `${at}.model_input`, vocabSize);
}

function checkIds(ids: ArrayLike<number | bigint>, field: string, vocabSize: number): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (id < 0 || id >= vocabSize)
      refuse(`${field}[${i}]`, `is ${id}`, `token ids are 0 to ${vocabSize - 1}`);
  }
}

/** @returns The shape that every other input must have. */
function checkTargets(
  definition: LossDefinition,
  datum: EngineDatum,
  at: string,
  vocabSize: number,
): number[] {
  const field = `${at}.loss_fn_inputs.target_tokens`;
  const targets = datum.inputs.target_tokens;
  const length = datum.tokens.length;
  if (!targets) refuse(field, 'is missing', `one target id per token of model_input, shape [${length}]`);
  const { dtype, shape, data } = targets;
  if (dtype === 'float32') refuse(field, 'is float32', 'integers: int64 or int32');
  if (shape.length === 2 && !definition.allowsTopK) {
    refuse(
      field,
      `has shape [${shape.join(', ')}]`,
      `loss_fn "${definition.name}" takes one target per token, [${length}]`,
    );
  }
  if (shape[0] !== length || shape.length < 1 || shape.length > 2 || shape[1] === 0) {
    const wanted = definition.allowsTopK ? `[${length}] or [${length}, K]` : `[${length}]`;
    refuse(field, `has shape [${shape.join(', ')}]`, `one row per token of model_input: ${wanted}`);
  }
  checkSize(targets, field);
  checkIds(data, field, vocabSize);
  return shape;
}

function checkSize({ shape, data }: HostTensor, field: string): void {
  const size = shape.reduce((product, n) => product * n, 1);
  if (data.length !== size) {
    refuse(field, `holds ${data.length} values`, `its shape [${shape.join(', ')}] has ${size}`);
  }
}

function checkValues(
  tensor: HostTensor,
  shape: number[],
  { min = -Infinity, max = Infinity }: LossInput,
  field: string,
): void {
  if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
    refuse(field, `has shape [${tensor.shape.join(', ')}]`, `that of target_tokens, [${shape.join(', ')}]`);
  }
  checkSize(tensor, field);
  const allowed = [min > -Infinity && `at least ${min}`, max < Infinity && `at most ${max}`].filter(Boolean);
  tensor.data.forEach((raw: number | bigint, i: number) => {
    const value = Number(raw);
    if (Number.isFinite(value) && value >= min && value <= max) return;
    refuse(
      `${field}${indexText(i, shape)}`,
      `is ${value}`,
      `finite numbers${allowed.map((a) => `, ${a}`).join('')}`,
    );
  });
}

function indexText(i: number, [, k]: number[]): string {
  return k === undefined ? `[${i}]` : `[${Math.floor(i / k)}][${i % k}]`;
}

function fillValue<Config extends LossConfig>(
  input: LossInput<Config>,
  datum: EngineDatum,
  config: Config,
): number | Float32Array | undefined {
  return input.fill ? input.fill(datum, config) : input.default;
}

/**
 * A batch's inputs by name, [data.length, width, k] row-major, 0 in the padding. What a datum leaves out is filled in;
 * the input that the engine computes (`baseLogprobsInput`) is all 0.
 *
 * @param width At least the longest datum.
 * @param k At least the largest {@link targetsPerPosition}.
 */
export function padInputs<Config extends LossConfig>(
  definition: LossDefinition<Config>,
  config: Config,
  data: EngineDatum[],
  width: number,
  k: number,
): Record<string, Float32Array> {
  const computed = definition.baseLogprobsInput?.(config);
  return Object.fromEntries(
    Object.entries(definition.inputs).map(([name, input]) => {
      const padded = new Float32Array(data.length * width * k);
      if (name === computed) return [name, padded];
      data.forEach((datum, row) => {
        const tensor = datum.inputs[name];
        const values = tensor ? toFloat32(tensor) : (fillValue(input, datum, config) ?? 0);
        placeRows(padded.subarray(row * width * k, (row + 1) * width * k), values, datum, k);
      });
      return [name, padded];
    }),
  );
}

/** Writes a datum's values, [length, own k] or one for all, into [width, k]. */
function placeRows(target: Float32Array, values: number | Float32Array, datum: EngineDatum, k: number): void {
  const own = targetsPerPosition(datum);
  for (let t = 0; t < datum.tokens.length; t++) {
    if (typeof values === 'number') target.fill(values, t * k, t * k + own);
    else target.set(values.subarray(t * own, (t + 1) * own), t * k);
  }
}

/**
 * @param elementwise [rows, width] row-major
 * @param lengths Real positions per row.
 * @param datums What to call each row; its index when absent.
 * @returns Where the first value that is not finite stands, or undefined.
 */
export function describeNonFinite(
  elementwise: Float32Array,
  lengths: number[],
  width: number,
  datums: number[] = lengths.map((_, row) => row),
): string | undefined {
  for (const [row, length] of lengths.entries()) {
    const position = elementwise
      .subarray(row * width, row * width + length)
      .findIndex((v) => !Number.isFinite(v));
    if (position < 0) continue;
    const value = elementwise[row * width + position];
    return `the loss of data[${datums[row]}] at position ${position} is ${value}; check its loss_fn_inputs there, and whether the learning rate made the weights diverge.`;
  }
  return undefined;
}
