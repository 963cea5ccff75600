// One safetensors file on disk: its checked header, and reads of its tensors by position.
import {
  closeSync,
  fstatSync,
  openSync,
  read as readCallback,
  readSync,
  type Stats,
  statSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { SafetensorsError } from './errors.ts';
import { type Header, LENGTH_BYTES, MAX_HEADER_BYTES, parseHeader, type TensorEntry } from './header.ts';

/** Bytes read and widened in one go: a multiple of every element size, and far below the 2 GiB that one read may ask. */
export const CHUNK_BYTES = 8 << 20;

const readAt = promisify(readCallback);

export interface OpenFile {
  readonly path: string;
  readonly fd: number;
  readonly header: Header;
}

/** Opens a file and reads its header; on success the file is appended to `opened`, for the caller to close. */
export function openFile(filePath: string, opened: OpenFile[]): OpenFile {
  statOrThrow(filePath);
  const fd = openSync(filePath, 'r');
  try {
    const file = { path: filePath, fd, header: readHeader(fd, filePath) };
    opened.push(file);
    return file;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function readHeader(fd: number, file: string): Header {
  const fileBytes = fstatSync(fd).size;
  if (fileBytes < LENGTH_BYTES) {
    throw new SafetensorsError('truncated', file, `${fileBytes} bytes are too few for a safetensors file`);
  }
  const length = new DataView(new ArrayBuffer(LENGTH_BYTES));
  readSync(fd, length, 0, LENGTH_BYTES, 0);
  const headerBytes = length.getBigUint64(0, true);
  if (headerBytes > BigInt(MAX_HEADER_BYTES)) {
    const problem = `a header of ${headerBytes} bytes (at most ${MAX_HEADER_BYTES}); is it a safetensors file?`;
    throw new SafetensorsError('header_too_large', file, problem);
  }
  const json = new Uint8Array(Number(headerBytes));
  if (LENGTH_BYTES + json.byteLength > fileBytes) {
    const problem = `the header takes ${headerBytes} bytes, but the file has ${fileBytes}; the file is cut off, fetch it again`;
    throw new SafetensorsError('truncated', file, problem);
  }
  readSync(fd, json, 0, json.byteLength, LENGTH_BYTES);
  return parseHeader(json, fileBytes, file);
}

/** The pieces in which a tensor is read, as offsets into its data. */
export function* chunksOf(entry: TensorEntry): Generator<{ begin: number; end: number }> {
  for (let begin = 0; begin < entry.byteLength; begin += CHUNK_BYTES) {
    yield { begin, end: Math.min(begin + CHUNK_BYTES, entry.byteLength) };
  }
}

/** Fills `target` with a tensor's bytes from `offset` on. */
export function fillSync(file: OpenFile, entry: TensorEntry, target: Uint8Array, offset: number): void {
  for (let done = 0; done < target.byteLength; ) {
    const count = readSync(file.fd, target, done, target.byteLength - done, entry.position + offset + done);
    if (count === 0) throw shrunk(file, entry);
    done += count;
  }
}

/** {@link fillSync} without blocking. */
export async function fill(
  file: OpenFile,
  entry: TensorEntry,
  target: Uint8Array,
  offset: number,
): Promise<void> {
  for (let done = 0; done < target.byteLength; ) {
    const position = entry.position + offset + done;
    const { bytesRead } = await readAt(file.fd, target, done, target.byteLength - done, position);
    if (bytesRead === 0) throw shrunk(file, entry);
    done += bytesRead;
  }
}

function shrunk(file: OpenFile, entry: TensorEntry): SafetensorsError {
  return new SafetensorsError(
    'truncated',
    file.path,
    'the file became shorter while it was open',
    entry.name,
  );
}

/** Throws SafetensorsError `file_not_found`. */
export function statOrThrow(target: string): Stats {
  const stats = statSync(target, { throwIfNoEntry: false });
  if (stats) return stats;
  throw new SafetensorsError('file_not_found', target, 'no such file or folder');
}
