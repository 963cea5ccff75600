import { usageError } from '../errors.ts';

/** @throws CliError when the server's key is neither given nor in the environment. */
export function keyFor(given: string | undefined): string {
  const key = given || process.env.TINKER_API_KEY || process.env.ANNEAL_API_KEY;
  if (!key) throw usageError('--api-key: a key is needed; give it, or set TINKER_API_KEY');
  return key;
}
