/** Everything the client throws on purpose. */
import type { RequestErrorCategory } from '@anneal/types';

const MARKER = Symbol.for('anneal.client.error');

/** Base of all errors of this package. */
export class TinkerError extends Error {
  override name = 'TinkerError';
  /** Set on every error of this package, so that two copies of it recognise each other's. */
  readonly [MARKER] = true;

  /** Whether a value is an error of this package, whichever copy made it. */
  static isInstance(value: unknown): value is TinkerError {
    return typeof value === 'object' && value !== null && MARKER in value;
  }
}

/** A call to the API went wrong. */
export class APIError extends TinkerError {
  override name = 'APIError';
}

/** No answer came. */
export class APIConnectionError extends APIError {
  override name = 'APIConnectionError';
}

/** No answer came in time. */
export class APITimeoutError extends APIConnectionError {
  override name = 'APITimeoutError';
}

/** The answer is not what the API promises. */
export class APIResponseValidationError extends APIError {
  override name = 'APIResponseValidationError';
}

/** What an error answer said. */
export interface ErrorAnswer {
  status: number;
  headers: Headers;
  /** The body: parsed where it is JSON, else text. */
  body: unknown;
}

/** The server answered with an error status. */
export class APIStatusError extends APIError {
  override name = 'APIStatusError';
  readonly status: number;
  readonly headers: Headers;
  /** The body: parsed where it is JSON, else text. */
  readonly body: unknown;

  constructor(message: string, answer: ErrorAnswer, options?: ErrorOptions) {
    super(message, options);
    this.status = answer.status;
    this.headers = answer.headers;
    this.body = answer.body;
  }

  /** The class that stands for the answer's status. */
  static from(call: string, answer: ErrorAnswer): APIStatusError {
    const detail = typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body);
    const message = `${call}: ${answer.status} ${detail.slice(0, 2000)}`;
    const Class =
      CLASS_OF_STATUS[answer.status] ?? (answer.status >= 500 ? InternalServerError : APIStatusError);
    return new Class(message, answer);
  }
}

/** 400: the request is wrong. */
export class BadRequestError extends APIStatusError {
  override name = 'BadRequestError';
}

/** 401: the API key is missing or wrong. */
export class AuthenticationError extends APIStatusError {
  override name = 'AuthenticationError';
}

/** 402: the account cannot pay. */
export class BillingError extends APIStatusError {
  override name = 'BillingError';
}

/** 403: the API key may not do this. */
export class PermissionDeniedError extends APIStatusError {
  override name = 'PermissionDeniedError';
}

/** 404: no such thing, or not for this key. */
export class NotFoundError extends APIStatusError {
  override name = 'NotFoundError';
}

/** 409: another call is in the way. */
export class ConflictError extends APIStatusError {
  override name = 'ConflictError';
}

/** 422: the request's fields are wrong. */
export class UnprocessableEntityError extends APIStatusError {
  override name = 'UnprocessableEntityError';
}

/** 429: too many calls. */
export class RateLimitError extends APIStatusError {
  override name = 'RateLimitError';
}

/** 5xx: the server failed. */
export class InternalServerError extends APIStatusError {
  override name = 'InternalServerError';
}

const CLASS_OF_STATUS: Record<number, typeof APIStatusError> = {
  400: BadRequestError,
  401: AuthenticationError,
  402: BillingError,
  403: PermissionDeniedError,
  404: NotFoundError,
  409: ConflictError,
  422: UnprocessableEntityError,
  429: RateLimitError,
};

/** The server took the request and could not fulfil it. */
export class RequestFailedError extends TinkerError {
  override name = 'RequestFailedError';
  readonly requestId: string;
  /** Whose mistake it is: `user` errors come again when the same is sent again. */
  readonly category: RequestErrorCategory;

  constructor(message: string, requestId: string, category: RequestErrorCategory) {
    super(message);
    this.requestId = requestId;
    this.category = category;
  }
}

/** The server no longer knows the request. Sampling sends it again by itself. */
export class RequestGoneError extends TinkerError {
  override name = 'RequestGoneError';
}

/** `result({ timeout })` waited long enough. */
export class ResultTimeoutError extends TinkerError {
  override name = 'ResultTimeoutError';
}

/** The future was cancelled. */
export class CancelledError extends TinkerError {
  override name = 'CancelledError';
}
