import * as z from 'zod';
import { ModelInput } from './model-input.ts';
import { ProvenanceSpan } from './provenance-span.ts';
import { fromArray, fromTyped, type NestedArray, type TypedValues } from './tensor-convert.ts';
import { TensorData } from './tensor-data.ts';
import type { TensorDtype } from './tensor-dtype.ts';

/** Loss inputs by name. */
export const LossFnInputs = z.record(z.string(), TensorData).meta({ id: 'LossFnInputs' });

export type LossFnInputs = z.infer<typeof LossFnInputs>;

/** What a loss input may be given as. */
export type TensorLike = TensorData | TypedValues | NestedArray;

/** Element types of plain arrays, which do not say theirs. */
const DTYPE_OF_INPUT: Record<string, TensorDtype> = {
  target_tokens: 'int64',
  weights: 'float32',
  advantages: 'float32',
  logprobs: 'float32',
  clip_low_threshold: 'float32',
  clip_high_threshold: 'float32',
  sequence_ratio_mask: 'float32',
};

function convertTensor(name: string, value: unknown): unknown {
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const tensor = fromTyped(value as TypedValues);
    return DTYPE_OF_INPUT[name] === 'float32' ? { ...tensor, dtype: 'float32' } : tensor;
  }
  return Array.isArray(value) ? fromArray(value as NestedArray, DTYPE_OF_INPUT[name]) : value;
}

/**
 * Turns plain, nested and typed arrays into {@link TensorData}; what is one already stays.
 *
 * @throws TypeError for ragged arrays, naming the input.
 */
export function convertTensors(inputs: Record<string, TensorLike>): LossFnInputs {
  const entries = Object.entries(inputs).map(([name, value]) => {
    try {
      return [name, convertTensor(name, value)];
    } catch (error) {
      throw new TypeError(`loss_fn_inputs.${name}: ${(error as Error).message}`, { cause: error });
    }
  });
  return Object.fromEntries(entries) as LossFnInputs;
}

const schema = z
  .strictObject({
    model_input: ModelInput,
    loss_fn_inputs: LossFnInputs,
    /** Where the input tokens came from; only `stable_reinforce` reads it. */
    model_input_spans: z.array(ProvenanceSpan).nullish(),
    /** Where the loss rows came from; comes with `model_input_spans` or not at all. */
    loss_fn_input_spans: z.array(ProvenanceSpan).nullish(),
  })
  .refine((datum) => !datum.model_input_spans === !datum.loss_fn_input_spans, {
    message: 'model_input_spans and loss_fn_input_spans come as a pair: set both or neither',
  })
  .meta({ id: 'Datum', description: 'One training example' });

export type Datum = z.infer<typeof schema>;

/** The parts of a datum, with loss inputs as any kind of array. */
export interface DatumParts {
  model_input: ModelInput;
  loss_fn_inputs: Record<string, TensorLike>;
  model_input_spans?: ProvenanceSpan[] | null;
  loss_fn_input_spans?: ProvenanceSpan[] | null;
}

/**
 * Builds a checked datum; loss inputs may be plain, nested or typed arrays.
 *
 * @throws ZodError or TypeError that names the field.
 */
function from(parts: DatumParts): Datum {
  return schema.parse({ ...parts, loss_fn_inputs: convertTensors(parts.loss_fn_inputs) });
}

function checkTiling(name: string, spans: readonly ProvenanceSpan[], expected: number): void {
  const total = spans.reduce((sum, span) => sum + span.length, 0);
  if (total === expected) return;
  throw new RangeError(
    `${name}: the spans cover ${total} positions, there are ${expected}; they must tile them`,
  );
}

/**
 * A copy that says where its tokens came from.
 *
 * @param modelInput runs that tile the input tokens
 * @param lossFnInputs runs that tile `target_tokens`
 * @throws RangeError when the lengths of the runs do not add up.
 */
function withProvenance(
  datum: Datum,
  modelInput: readonly ProvenanceSpan[],
  lossFnInputs: readonly ProvenanceSpan[],
): Datum {
  checkTiling('modelInput', modelInput, ModelInput.length(datum.model_input));
  const targets = datum.loss_fn_inputs.target_tokens;
  if (targets && (targets.shape?.length ?? 1) === 1)
    checkTiling('lossFnInputs', lossFnInputs, targets.data.length);
  return schema.parse({ ...datum, model_input_spans: modelInput, loss_fn_input_spans: lossFnInputs });
}

/** One training example: the schema, and functions that build it. */
export const Datum = Object.assign(schema, { from, convertTensors, withProvenance });
