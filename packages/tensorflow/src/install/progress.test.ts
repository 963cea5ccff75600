import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { type SetupProgress, terminalProgress } from './progress.ts';

test('without a terminal each step is one line, however often it reports', async () => {
  const stream = new PassThrough();
  const { onProgress, stop } = terminalProgress(stream as unknown as NodeJS.WriteStream);
  for (const receivedBytes of [1, 2, 3])
    onProgress({ step: 'download', message: 'Downloading TensorFlow', receivedBytes, totalBytes: 3 });
  onProgress({ step: 'compile', message: 'Compiling' });
  stop();
  stream.end();
  expect(await text(stream)).toBe('Downloading TensorFlow\nCompiling\n');
});

async function onTerminal(events: SetupProgress[]): Promise<string> {
  const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 100 });
  const { onProgress, stop } = terminalProgress(stream as unknown as NodeJS.WriteStream);
  for (const event of events) onProgress(event);
  stop();
  stream.end();
  return text(stream);
}

test('on a terminal a download is one bar in megabytes, with the other steps above it', async () => {
  const download = { step: 'download', message: 'Downloading TensorFlow', totalBytes: 274_000_871 } as const;
  const output = await onTerminal([
    { ...download, receivedBytes: 0 },
    { step: 'unpack', message: 'Unpacking' },
    { ...download, receivedBytes: 137_000_436 },
    { step: 'ready', message: 'Ready' },
  ]);
  expect(output).toMatch(/Unpacking\n[\s\S]* 0% 0\/274 MB {2}Downloading TensorFlow/);
  const end = output.slice(output.lastIndexOf('Ready\n'));
  expect(end).toContain('50% 137/274 MB  Downloading TensorFlow');
  expect(end).not.toContain(' 0% 0/274 MB');
});

test('on a terminal steps without a measure are lines, and nothing to do prints nothing', async () => {
  expect(await onTerminal([{ step: 'compile', message: 'Compiling' }])).toBe('Compiling\n');
  expect(await onTerminal([])).toBe('');
});
