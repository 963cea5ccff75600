/** Ends the command with one line on stderr. Exit codes: 1 something failed, 2 wrong usage or configuration. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exitCode: number;

  constructor(message: string, options: ErrorOptions & { exitCode?: number } = {}) {
    super(message, options);
    this.exitCode = options.exitCode ?? 1;
  }
}

/** A value that the user gave and must change. */
export function usageError(message: string, options?: ErrorOptions): CliError {
  return new CliError(message, { ...options, exitCode: 2 });
}
