import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { terminalProgress } from './progress.ts';

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
