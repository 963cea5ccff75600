/** When to send again, and how long to wait before. */
import { APIConnectionError, APIStatusError } from './errors.ts';

/** How often and how fast a call is repeated. */
export interface RetryConfig {
  /** Milliseconds after which a failing call is given up. */
  maxElapsedMs: number;
  /** Milliseconds before the first repetition; doubles with each one. */
  initialDelayMs: number;
  maxDelayMs: number;
  /** Share of the delay that is random, 0 to 1. */
  jitter: number;
}

/** What calls do unless told otherwise. */
export const DEFAULT_RETRY: RetryConfig = {
  maxElapsedMs: 5 * 60_000,
  initialDelayMs: 500,
  maxDelayMs: 30_000,
  jitter: 0.25,
};

/** Longest wait that a server may ask for. */
const MAX_RETRY_AFTER_MS = 60_000;

/** Milliseconds that the server asks to wait, if it asks for a sensible time. */
export function retryAfterMs(headers: Headers, now = Date.now()): number | undefined {
  const precise = headers.get('retry-after-ms');
  const plain = headers.get('retry-after');
  let wait = Number.NaN;
  if (precise !== null) wait = Number(precise);
  else if (plain !== null)
    wait = /^\s*[\d.]+\s*$/.test(plain) ? Number(plain) * 1000 : Date.parse(plain) - now;
  return wait > 0 && wait <= MAX_RETRY_AFTER_MS ? wait : undefined;
}

/** Exponential delay before repetition `attempt` (0 is the first), shortened or lengthened at random. */
export function backoffMs(attempt: number, config: RetryConfig, random: () => number = Math.random): number {
  const delay = Math.min(config.initialDelayMs * 2 ** Math.min(attempt, 60), config.maxDelayMs);
  const jittered = delay * (1 + config.jitter * (2 * random() - 1));
  return Math.max(0, Math.min(jittered, config.maxDelayMs));
}

const RETRYABLE_STATUS = new Set([408, 409, 429]);

/** Whether the same call may succeed later. `x-should-retry` overrides the rule. */
export function isRetryable(error: unknown): boolean {
  if (error instanceof APIConnectionError) return true;
  if (!(error instanceof APIStatusError)) return false;
  const wish = error.headers.get('x-should-retry');
  if (wish === 'true' || wish === 'false') return wish === 'true';
  return RETRYABLE_STATUS.has(error.status) || error.status >= 500;
}

/** Milliseconds to wait before repetition `attempt` after `error`. */
export function delayAfter(error: unknown, attempt: number, config: RetryConfig): number {
  const asked = error instanceof APIStatusError ? retryAfterMs(error.headers) : undefined;
  return asked ?? backoffMs(attempt, config);
}
