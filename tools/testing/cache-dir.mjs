import { homedir } from 'node:os';
import { join } from 'node:path';

/** The user's cache folder, shared by all checkouts. */
export function cacheDir() {
  const { ANNEAL_CACHE_DIR, XDG_CACHE_HOME } = process.env;
  return ANNEAL_CACHE_DIR || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'anneal');
}
