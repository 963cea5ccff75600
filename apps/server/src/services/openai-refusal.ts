import { ApiError, type ErrorCode } from '../errors.ts';

/** An error with the two fields that OpenAI's error shape has beside the message. */
export class OpenAiRefusal extends ApiError {
  /** The request's field that is at fault. */
  readonly param: string | null;
  /** OpenAI's name of the fault, such as `model_not_found`. */
  readonly openAiCode: string | null;

  constructor(
    kind: ErrorCode,
    message: string,
    { param, code, ...options }: ErrorOptions & { param?: string; code?: string; retryAfter?: number },
  ) {
    super(kind, message, options);
    this.param = param ?? null;
    this.openAiCode = code ?? null;
  }
}
