/** Every kind of error that leaves the server: one table from code to HTTP status and category. */
import type { ErrorCategory } from '@anneal/store';

/**
 * 402 and 409 are never used: clients wait out the first for an hour and retry the second for minutes. `category` is
 * what a failed future of this kind carries.
 */
const table = {
  invalid_request: { status: 400, category: 'user' },
  unauthenticated: { status: 401, category: 'user' },
  session_ended: { status: 403, category: 'user' },
  quota_exceeded: { status: 403, category: 'user' },
  not_found: { status: 404, category: 'user' },
  not_ready: { status: 408, category: 'server' },
  gone: { status: 410, category: 'server' },
  body_too_large: { status: 413, category: 'user' },
  unsupported_media_type: { status: 415, category: 'user' },
  range_not_satisfiable: { status: 416, category: 'user' },
  too_many_requests: { status: 429, category: 'server' },
  internal: { status: 500, category: 'server' },
  shutting_down: { status: 503, category: 'server' },
} as const satisfies Record<string, { status: number; category: ErrorCategory }>;

export type ErrorCode = keyof typeof table;

/** An error to show the caller. The message names field and value, and says what to do. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: ErrorCode;
  readonly status: number;
  readonly category: ErrorCategory;
  /** Seconds after which trying again makes sense. */
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptions & { retryAfter?: number } = {}) {
    super(message, options);
    this.code = code;
    this.status = table[code].status;
    this.category = table[code].category;
    this.retryAfter = options.retryAfter;
  }
}

/** The code of a status that a library chose. */
export function codeOfStatus(status: number): ErrorCode {
  const exact = Object.entries(table).find(([, entry]) => entry.status === status);
  if (exact) return exact[0] as ErrorCode;
  return status >= 400 && status < 500 ? 'invalid_request' : 'internal';
}
