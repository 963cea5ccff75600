import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ByteRange, StoredFile } from '@anneal/store';
import { pack } from 'tar-stream';

const BLOCK = 512;
const TRAILER = 2 * BLOCK;

/** Size of the archive of these files, which is known without building it. */
export function tarSize(files: readonly StoredFile[]): number {
  const entries = files.map(({ size }) => BLOCK + Math.ceil(size / BLOCK) * BLOCK);
  return entries.reduce((total, size) => total + size, TRAILER);
}

/**
 * An uncompressed tar of files, made while it is read. Its bytes depend on nothing but names, contents and `modified`,
 * so that a download that was cut can go on with a range.
 */
export function streamTar(
  files: readonly StoredFile[],
  modified: Date,
  open: (file: StoredFile) => Promise<Readable>,
  range?: ByteRange,
): Readable {
  const archive = pack();
  const out = range ? slice(range) : undefined;
  const filled = fill(archive, files, modified, open);
  filled.catch((error: Error) => archive.destroy(error));
  if (!out) return archive as unknown as Readable;
  pipeline(archive as unknown as Readable, out).catch(() => archive.destroy());
  return out;
}

async function fill(
  archive: ReturnType<typeof pack>,
  files: readonly StoredFile[],
  modified: Date,
  open: (file: StoredFile) => Promise<Readable>,
): Promise<void> {
  for (const file of files) {
    const entry = archive.entry({ name: file.name, size: file.size, mtime: modified, mode: 0o644 });
    await pipeline(await open(file), entry as unknown as NodeJS.WritableStream);
  }
  archive.finalize();
}

/** Passes only the bytes of a range, and ends after them. */
function slice({ start, end }: ByteRange): Transform {
  let position = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const from = Math.max(start - position, 0);
      const to = Math.min(end + 1 - position, chunk.byteLength);
      position += chunk.byteLength;
      if (from < to) this.push(chunk.subarray(from, to));
      if (position > end) this.push(null);
      done();
    },
  });
}
