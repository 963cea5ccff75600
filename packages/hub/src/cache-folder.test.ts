import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { annealCacheDir, makeFolderAtomically, requireDiskSpace } from './cache-folder.ts';

const scratch = mkdtempSync(path.join(tmpdir(), 'cache-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Runs a module in a process of its own and returns its exit code. */
function runProcess(source: string): Promise<number | null> {
  const prelude = `import { makeFolderAtomically, withCacheLock } from ${JSON.stringify(path.join(import.meta.dirname, 'cache-folder.ts'))};
    import { readFileSync, writeFileSync } from 'node:fs';
    import { setTimeout as sleep } from 'node:timers/promises';\n`;
  const args = ['--input-type=module-typescript', '--conditions=@anneal/source', '--eval', prelude + source];
  return new Promise((resolve) => {
    spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] }).on('close', resolve);
  });
}

test('of processes that make the same folder at once all succeed, and one result stays', async () => {
  const target = path.join(scratch, 'model');
  const source = `await makeFolderAtomically(${JSON.stringify(target)}, async (folder) => {
    writeFileSync(folder + '/first', String(process.pid));
    await sleep(200);
    writeFileSync(folder + '/second', String(process.pid));
  });`;
  expect(await Promise.all([runProcess(source), runProcess(source), runProcess(source)])).toEqual([0, 0, 0]);
  expect(readdirSync(scratch)).toEqual(['model']);
  const read = (file: string) => readFileSync(path.join(target, file), 'utf8');
  expect(read('second')).toBe(read('first'));
});

test('a failure leaves nothing behind', async () => {
  const target = path.join(scratch, 'broken');
  const failing = makeFolderAtomically(target, async (folder) => {
    writeFileSync(path.join(folder, 'part'), 'x');
    throw new Error('disk on fire');
  });
  await expect(failing).rejects.toThrow('disk on fire');
  expect(readdirSync(scratch).filter((name) => name.startsWith('broken'))).toEqual([]);
});

test('one process at a time holds the lock', async () => {
  const counter = path.join(scratch, 'counter');
  writeFileSync(counter, '0');
  const source = `for (let i = 0; i < 3; i++) {
    await withCacheLock(${JSON.stringify(scratch)}, 'counting', () => {}, async () => {
      const value = Number(readFileSync(${JSON.stringify(counter)}, 'utf8'));
      await sleep(20);
      writeFileSync(${JSON.stringify(counter)}, String(value + 1));
    });
  }`;
  expect(await Promise.all([runProcess(source), runProcess(source)])).toEqual([0, 0]);
  expect(readFileSync(counter, 'utf8')).toBe('6');
});

test('the cache folder follows ANNEAL_CACHE_DIR, then XDG_CACHE_HOME', () => {
  expect(annealCacheDir({ ANNEAL_CACHE_DIR: '/data/cache', XDG_CACHE_HOME: '/xdg' })).toBe('/data/cache');
  expect(annealCacheDir({ XDG_CACHE_HOME: '/xdg' })).toBe('/xdg/anneal');
  expect(annealCacheDir({ XDG_CACHE_HOME: 'relative' })).toMatch(/\/\.cache\/anneal$/);
});

test('a full disk is named with both numbers', async () => {
  await expect(requireDiskSpace(scratch, 2 ** 60, 'acme/huge')).rejects.toThrow(
    /acme\/huge needs 1152921504\.6 GB .* are free/,
  );
});
