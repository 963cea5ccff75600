// Reads one tensor at a time, by position, from a safetensors file or the shards of a checkpoint folder.
import {
  closeSync,
  fstatSync,
  openSync,
  read as readCallback,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { bitsPerElement } from './dtype.ts';
import { SafetensorsError } from './errors.ts';
import {
  type Header,
  LENGTH_BYTES,
  MAX_HEADER_BYTES,
  parseHeader,
  type TensorEntry,
  type TensorInfo,
} from './header.ts';
import { type FloatDtype, isFloatDtype, widenToFloat32 } from './widen.ts';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

/** Bytes read and widened in one go: a multiple of every element size, and far below the 2 GiB that one read may ask. */
const CHUNK_BYTES = 8 << 20;

const readAt = promisify(readCallback);

interface OpenFile {
  readonly path: string;
  readonly fd: number;
  readonly header: Header;
}

interface StoredTensor {
  readonly file: OpenFile;
  readonly entry: TensorEntry;
}

/**
 * Opens a safetensors file, or a checkpoint folder with `model.safetensors` or `model.safetensors.index.json` and its
 * shards. Reads and checks all headers, no tensor data.
 *
 * @throws SafetensorsError naming the file (and tensor) when something is missing or malformed
 */
export function openSafetensors(fileOrFolder: string): SafetensorsReader {
  const opened: OpenFile[] = [];
  try {
    if (!statOrThrow(fileOrFolder).isDirectory()) {
      const file = openFile(fileOrFolder, opened);
      return new SafetensorsReader(opened, file.header.metadata, tensorsOf(file));
    }
    return openFolder(fileOrFolder, opened);
  } catch (error) {
    for (const { fd } of opened) closeSync(fd);
    throw error;
  }
}

/** Tensors of a file or checkpoint, by name. Close it when done. */
export class SafetensorsReader implements Disposable {
  /** Paths of the files that hold the data. */
  readonly files: readonly string[];
  /** Free-form strings of the file's header; for shards, those of all headers together. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly #files: readonly OpenFile[];
  readonly #tensors: ReadonlyMap<string, StoredTensor>;
  #closed = false;

  /** Use {@link openSafetensors}. */
  constructor(
    files: readonly OpenFile[],
    metadata: Record<string, string>,
    tensors: Map<string, StoredTensor>,
  ) {
    this.#files = files;
    this.files = files.map((file) => file.path);
    this.metadata = metadata;
    this.#tensors = new Map([...tensors].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** All tensors, sorted by name. */
  get tensors(): TensorInfo[] {
    return [...this.#tensors.values()].map(({ entry: { name, dtype, shape, byteLength } }) => ({
      name,
      dtype,
      shape,
      byteLength,
    }));
  }

  /** Whether there is a tensor of this name. */
  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  /** Dtype, shape and size of a tensor. Throws SafetensorsError `tensor_not_found`. */
  info(name: string): TensorInfo {
    const { name: found, dtype, shape, byteLength } = this.#find(name).entry;
    return { name: found, dtype, shape, byteLength };
  }

  /** The stored bytes of a tensor, little-endian, in a buffer of their own (so typed arrays may view it). */
  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const { file, entry } = this.#find(name);
    const bytes = new Uint8Array(entry.byteLength);
    for (const chunk of chunksOf(entry))
      await fill(file, entry, bytes.subarray(chunk.begin, chunk.end), chunk.begin);
    return bytes;
  }

  /** {@link read}, blocking. */
  readSync(name: string): Uint8Array<ArrayBuffer> {
    const { file, entry } = this.#find(name);
    const bytes = new Uint8Array(entry.byteLength);
    for (const chunk of chunksOf(entry))
      fillSync(file, entry, bytes.subarray(chunk.begin, chunk.end), chunk.begin);
    return bytes;
  }

  /**
   * A tensor of dtype F64, F32, F16 or BF16 as float32. Peak memory is the result plus a few MiB.
   *
   * @throws SafetensorsError `dtype_unsupported` for other dtypes
   */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { file, entry, dtype } = this.#findFloat(name);
    const out = new Float32Array((entry.byteLength * 8) / bitsPerElement(dtype));
    let offset = 0;
    for (const { begin, end } of chunksOf(entry)) {
      const bytes = new Uint8Array(end - begin);
      await fill(file, entry, bytes, begin);
      const values = widenToFloat32(dtype, bytes);
      out.set(values, offset);
      offset += values.length;
    }
    return out;
  }

  /** {@link readFloat32}, blocking. */
  readFloat32Sync(name: string): Float32Array<ArrayBuffer> {
    const { file, entry, dtype } = this.#findFloat(name);
    const out = new Float32Array((entry.byteLength * 8) / bitsPerElement(dtype));
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, entry.byteLength));
    let offset = 0;
    for (const { begin, end } of chunksOf(entry)) {
      const bytes = buffer.subarray(0, end - begin);
      fillSync(file, entry, bytes, begin);
      const values = widenToFloat32(dtype, bytes);
      out.set(values, offset);
      offset += values.length;
    }
    return out;
  }

  /** Closes the files; reading afterwards fails. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { fd } of this.#files) closeSync(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #find(name: string): StoredTensor {
    if (this.#closed) throw new Error(`${this.files[0]}: read of "${name}" after close()`);
    const found = this.#tensors.get(name);
    if (found) return found;
    const where = this.files.length === 1 ? this.files[0]! : path.dirname(this.files[0]!);
    const problem = `not there (the checkpoint has ${this.#tensors.size} tensors)`;
    throw new SafetensorsError('tensor_not_found', where, problem, name);
  }

  #findFloat(name: string): StoredTensor & { dtype: FloatDtype } {
    const found = this.#find(name);
    const { dtype } = found.entry;
    if (isFloatDtype(dtype)) return { ...found, dtype };
    const problem = `dtype ${dtype} cannot be read as float32 (F64, F32, F16 and BF16 can)`;
    throw new SafetensorsError('dtype_unsupported', found.file.path, problem, name);
  }
}

function openFolder(folder: string, opened: OpenFile[]): SafetensorsReader {
  const names = new Set(readdirSync(folder));
  if (names.has(SINGLE_FILE)) return openSingle(path.join(folder, SINGLE_FILE), opened);
  if (names.has(INDEX_FILE)) return openShards(folder, opened);
  const others = [...names].filter((name) => name.endsWith('.safetensors'));
  const hint = others.length > 0 ? `; to read ${others[0]}, give its path` : '';
  throw new SafetensorsError(
    'file_not_found',
    folder,
    `no ${SINGLE_FILE} and no ${INDEX_FILE} in this folder${hint}`,
  );
}

function openSingle(filePath: string, opened: OpenFile[]): SafetensorsReader {
  const file = openFile(filePath, opened);
  return new SafetensorsReader(opened, file.header.metadata, tensorsOf(file));
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

function openShards(folder: string, opened: OpenFile[]): SafetensorsReader {
  const indexPath = path.join(folder, INDEX_FILE);
  const weightMap = readWeightMap(indexPath);
  const shards = new Map<string, Map<string, StoredTensor>>();
  const metadata: Record<string, string> = {};
  for (const shard of new Set(weightMap.values())) {
    if (path.basename(shard) !== shard) {
      throw new SafetensorsError('index_invalid', indexPath, `shard "${shard}" is not a plain file name`);
    }
    const file = openFile(path.join(folder, shard), opened);
    Object.assign(metadata, file.header.metadata);
    shards.set(shard, tensorsOf(file));
  }
  const tensors = new Map<string, StoredTensor>();
  for (const [name, shard] of weightMap) {
    const stored = shards.get(shard)?.get(name);
    if (!stored) throw new SafetensorsError('index_invalid', indexPath, `not in its shard ${shard}`, name);
    tensors.set(name, stored);
  }
  return new SafetensorsReader(opened, metadata, tensors);
}

function readWeightMap(indexPath: string): Map<string, string> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(indexPath, 'utf8'));
  } catch (error) {
    throw new SafetensorsError(
      'index_invalid',
      indexPath,
      `not JSON: ${error instanceof Error ? error.message : error}`,
    );
  }
  const parsed = indexSchema.safeParse(value);
  if (!parsed.success) throw new SafetensorsError('index_invalid', indexPath, z.prettifyError(parsed.error));
  return new Map(Object.entries(parsed.data.weight_map));
}

function openFile(filePath: string, opened: OpenFile[]): OpenFile {
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

function tensorsOf(file: OpenFile): Map<string, StoredTensor> {
  return new Map(file.header.tensors.map((entry) => [entry.name, { file, entry }]));
}

function* chunksOf(entry: TensorEntry): Generator<{ begin: number; end: number }> {
  for (let begin = 0; begin < entry.byteLength; begin += CHUNK_BYTES) {
    yield { begin, end: Math.min(begin + CHUNK_BYTES, entry.byteLength) };
  }
}

function fillSync(file: OpenFile, entry: TensorEntry, target: Uint8Array, offset: number): void {
  for (let done = 0; done < target.byteLength; ) {
    const count = readSync(file.fd, target, done, target.byteLength - done, entry.position + offset + done);
    if (count === 0) throw shrunk(file, entry);
    done += count;
  }
}

async function fill(file: OpenFile, entry: TensorEntry, target: Uint8Array, offset: number): Promise<void> {
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

function statOrThrow(target: string): ReturnType<typeof statSync> & object {
  const stats = statSync(target, { throwIfNoEntry: false });
  if (stats) return stats;
  throw new SafetensorsError('file_not_found', target, 'no such file or folder');
}
