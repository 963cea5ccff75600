/** Why TensorFlow could not be set up, in words that tell a person what to do. */

export type TensorflowSetupCode =
  | 'pip_missing'
  | 'compiler_missing'
  | 'disk_full'
  | 'cache_unwritable'
  | 'download_failed'
  | 'compile_failed'
  | 'addon_unloadable'
  | 'gpu_missing';

const marker = Symbol.for('anneal.TensorflowSetupError');

/** Thrown by `prepareTensorflow`. The message holds problem and remedy; `code` is for programs. */
export class TensorflowSetupError extends Error {
  override readonly name = 'TensorflowSetupError';
  readonly code: TensorflowSetupCode;
  /** The sentence of the message that says what to do. */
  readonly remedy: string;
  readonly [marker] = true;

  constructor(code: TensorflowSetupCode, problem: string, remedy: string, cause?: unknown) {
    super(`${problem} ${remedy}`, { cause });
    this.code = code;
    this.remedy = remedy;
  }

  /** Recognises errors of another copy of this package too. */
  static isInstance(error: unknown): error is TensorflowSetupError {
    return error instanceof Error && marker in error;
  }
}

/** Code of a Node.js system error (`ENOSPC`, `EACCES`, ...), if it is one. */
export function systemErrorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
