/** The credential of each call: an API key, or a short-lived token that the server gives for it. */
import { AuthTokenResponse } from '@anneal/types';
import { TinkerError } from '../core/errors.ts';

/** Claims of the server's tokens that the client reads. */
interface Claims {
  exp: number;
  iat: number;
  sub: string;
  org_id: string;
  email?: string;
}

/** Reads a token's claims, without checking its signature: that is the server's business. */
export function readClaims(jwt: string): Claims {
  const payload = jwt.split('.')[1];
  if (!payload) throw new TinkerError('the server gave a token that is no JWT');
  const base64 = payload.replaceAll('-', '+').replaceAll('_', '/');
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes)) as Claims;
}

/** Posts to `/api/v1/auth/token` with the API key. */
export type TokenExchange = (apiKey: string) => Promise<unknown>;

/** Gives the value of `X-API-Key`. */
export class Credentials {
  readonly #apiKey: () => string | Promise<string>;
  #exchange: TokenExchange | undefined;
  #token: Promise<string> | undefined;
  #refreshAt = 0;

  constructor(apiKey: () => string | Promise<string>) {
    this.#apiKey = apiKey;
  }

  /** From now on calls carry tokens. */
  useTokens(exchange: TokenExchange): void {
    this.#exchange = exchange;
  }

  get usesTokens(): boolean {
    return this.#exchange !== undefined;
  }

  /** What to send now. A token is renewed at half of its life. */
  async header(): Promise<string> {
    if (!this.#exchange) return this.#checkedKey();
    if (!this.#token || Date.now() >= this.#refreshAt) this.#token = this.#renew(this.#exchange);
    return this.#token;
  }

  /** Forgets a token that the server refused. */
  invalidate(): void {
    this.#token = undefined;
  }

  async #checkedKey(): Promise<string> {
    const key = (await this.#apiKey()).trim();
    if (!key) throw new TinkerError('the API key is empty');
    return key;
  }

  async #renew(exchange: TokenExchange): Promise<string> {
    try {
      const { jwt } = AuthTokenResponse.parse(await exchange(await this.#checkedKey()));
      const { exp, iat } = readClaims(jwt);
      this.#refreshAt = Date.now() + ((exp - iat) / 2) * 1000;
      return jwt;
    } catch (error) {
      this.#token = undefined;
      throw error;
    }
  }
}
