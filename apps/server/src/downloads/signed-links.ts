import { createHmac, timingSafeEqual } from 'node:crypto';
import { ApiError } from '../errors.ts';

/** Links that work without a key until they expire, because nobody else can sign them. */
export class SignedLinks {
  readonly #secret: string;
  readonly #lifeMs: number;

  constructor(secret: string, lifeMs: number) {
    this.#secret = secret;
    this.#lifeMs = lifeMs;
  }

  /** When a link made now stops working. */
  expiry(now: number): number {
    return Math.floor((now + this.#lifeMs) / 1000) * 1000;
  }

  /** The query that makes `path` readable until `expires`, in milliseconds. */
  sign(path: string, expires: number): string {
    return `expires=${expires / 1000}&signature=${this.#signature(path, expires / 1000)}`;
  }

  /** @throws ApiError `not_found` when the link was not signed here, `gone` when it is too old. */
  verify(path: string, query: { expires?: string | undefined; signature?: string | undefined }): void {
    const expires = Number(query.expires);
    const expected = Buffer.from(this.#signature(path, expires));
    const given = Buffer.from(query.signature ?? '');
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
      throw new ApiError('not_found', 'This download link is not valid: ask for a new one');
    }
    if (expires * 1000 <= Date.now()) {
      throw new ApiError('gone', 'This download link has expired: ask for a new one');
    }
  }

  #signature(path: string, expires: number): string {
    return createHmac('sha256', this.#secret).update(`${path}\n${expires}`).digest('base64url');
  }
}
