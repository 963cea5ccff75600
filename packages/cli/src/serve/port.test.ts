import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { requireFreePort } from './port.ts';

test('a taken port is refused with a message that names it', async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  const address = holder.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  try {
    await expect(requireFreePort('127.0.0.1', address.port)).rejects.toThrow(
      `127.0.0.1:${address.port} is taken`,
    );
  } finally {
    await new Promise((resolve) => holder.close(resolve));
  }
  await expect(requireFreePort('127.0.0.1', address.port)).resolves.toBeUndefined();
});

test('an address that is not ours is refused', async () => {
  await expect(requireFreePort('203.0.113.1', 8123)).rejects.toThrow('--host: ');
});
