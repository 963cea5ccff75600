import { expect, test } from 'vitest';
import { runCommand } from './run-command.ts';

const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

test('exit code and both outputs are captured', async () => {
  const result = await runCommand(['sh', '-c', 'echo out; echo err >&2; exit 3']);
  expect(result).toEqual({ exitCode: 3, stdout: 'out\n', stderr: 'err\n' });
});

test('a missing program is a result, and leaves no timer that keeps the process alive', async () => {
  const before = timers();
  const result = await runCommand(['no-such-program'], { timeoutMs: 600_000 });
  expect(result).toMatchObject({ exitCode: null, stderr: expect.stringContaining('ENOENT') });
  expect(timers()).toBe(before);
});

test('a program that takes too long is ended', async () => {
  expect((await runCommand(['sleep', '600'], { timeoutMs: 50 })).exitCode).toBeNull();
});
