/** Bytes or JSON that do not hold what their format promises. */
export class WireFormatError extends Error {
  override readonly name = 'WireFormatError';
  /** Where, for example `data[3].loss_fn_inputs.weights`. */
  readonly path: string;
  /** Index of the datum, where one is to blame. */
  readonly datum: number | undefined;

  constructor(path: string, message: string, options?: ErrorOptions & { datum?: number }) {
    super(path ? `${path}: ${message}` : message, options);
    this.path = path;
    this.datum = options?.datum;
  }
}
