import * as z from 'zod';
import { CheckpointType } from './checkpoint.ts';

/** URI schemes that are read; `tinker` is the one that is written. */
const SCHEMES = ['tinker', 'logits'] as const;

/** Path segment of each checkpoint type. */
export const CHECKPOINT_KINDS = {
  training: 'weights',
  sampler: 'sampler_weights',
  external: 'external_weights',
} as const satisfies Record<CheckpointType, string>;

/** The middle segment of a checkpoint's path. */
export type CheckpointKind = (typeof CHECKPOINT_KINDS)[CheckpointType];

const schema = z
  .object({
    tinker_path: z.string(),
    training_run_id: z.string(),
    checkpoint_type: CheckpointType,
    /** Kind and name, for example `weights/step-100`. */
    checkpoint_id: z.string(),
  })
  .meta({ id: 'ParsedCheckpointTinkerPath' });

export type ParsedCheckpointTinkerPath = z.infer<typeof schema>;

function refuse(path: string, reason: string): never {
  const form = 'tinker://{training_run_id}/{weights|sampler_weights|external_weights}/{name}';
  throw new TypeError(`invalid checkpoint path "${path}": ${reason}; expected ${form}`);
}

function typeOfKind(kind: string): CheckpointType | undefined {
  return CheckpointType.options.find((type) => CHECKPOINT_KINDS[type] === kind);
}

/**
 * Reads `tinker://{run}/{kind}/{name}` (or `logits://…`). The run's id may contain `:`, no part may contain `/`.
 *
 * @throws TypeError that says what is wrong with the path.
 */
function fromTinkerPath(path: string): ParsedCheckpointTinkerPath {
  const scheme = SCHEMES.find((name) => path.startsWith(`${name}://`));
  if (!scheme) return refuse(path, 'it must start with tinker:// or logits://');
  const segments = path.slice(scheme.length + '://'.length).split('/');
  const [run, kind = '', name] = segments;
  if (segments.length !== 3 || !run || !name) return refuse(path, 'it must have three non-empty segments');
  const checkpointType = typeOfKind(kind);
  if (!checkpointType) return refuse(path, `"${kind}" is no kind of checkpoint`);
  return {
    tinker_path: path,
    training_run_id: run,
    checkpoint_type: checkpointType,
    checkpoint_id: `${kind}/${name}`,
  };
}

/** A checkpoint's path, always with the `tinker` scheme. */
export function formatCheckpointPath(trainingRunId: string, type: CheckpointType, name: string): string {
  const path = `tinker://${trainingRunId}/${CHECKPOINT_KINDS[type]}/${name}`;
  return fromTinkerPath(path).tinker_path;
}

/** The name alone: `checkpoint_id` without its kind. */
export function checkpointName(checkpointId: string): string {
  return checkpointId.slice(checkpointId.indexOf('/') + 1);
}

/** The parts of a checkpoint's path: the schema, and the function that reads one. */
export const ParsedCheckpointTinkerPath = Object.assign(schema, { fromTinkerPath });
