// Reads one tensor at a time, by position, from a safetensors file or the shards of a checkpoint folder.
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { bitsPerElement } from './dtype.ts';
import { SafetensorsError } from './errors.ts';
import type { TensorEntry, TensorInfo } from './header.ts';
import { CHUNK_BYTES, chunksOf, fill, fillSync, type OpenFile, openFile, statOrThrow } from './open-file.ts';
import { type FloatDtype, isFloatDtype, widenInto, widenToFloat32 } from './widen.ts';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';
/** What {@link SafetensorsReader.float32RowsSync} reads at once, where rows are not longer. */
const ROWS_BYTES = 1 << 20;

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
  /** Of {@link float32RowsSync}. */
  #rows = { stored: new Uint8Array(0), widened: new Float32Array(0) };

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

  /** Bytes `begin` to `end` (not included) of a tensor, for those that are best read in parts; blocking. */
  readPartSync(name: string, begin: number, end: number): Uint8Array<ArrayBuffer> {
    const { file, entry } = this.#find(name);
    if (begin < 0 || end < begin || end > entry.byteLength)
      throw new RangeError(`tensor "${name}" has ${entry.byteLength} bytes: no part ${begin} to ${end}`);
    const bytes = new Uint8Array(end - begin);
    fillSync(file, entry, bytes, begin);
    return bytes;
  }

  /** Fills `target` with the bytes of a tensor from `begin` on, for memory that is there already; blocking. */
  readIntoSync(name: string, begin: number, target: Uint8Array): void {
    const { file, entry } = this.#find(name);
    if (begin < 0 || begin + target.byteLength > entry.byteLength)
      throw new RangeError(
        `tensor "${name}" has ${entry.byteLength} bytes: no ${target.byteLength} from ${begin} on`,
      );
    for (let done = 0; done < target.byteLength; done += CHUNK_BYTES)
      fillSync(file, entry, target.subarray(done, done + CHUNK_BYTES), begin + done);
  }

  /**
   * A tensor of dtype F64, F32, F16 or BF16 as float32. Peak memory is the result plus a few MiB.
   *
   * @throws SafetensorsError `dtype_unsupported` for other dtypes
   */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { file, entry, dtype } = this.#findFloat(name);
    const out = new Float32Array((entry.byteLength * 8) / bitsPerElement(dtype));
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, entry.byteLength));
    for (const { begin, end } of chunksOf(entry)) {
      const bytes = buffer.subarray(0, end - begin);
      await fill(file, entry, bytes, begin);
      widenInto(dtype, bytes, out, (begin * 8) / bitsPerElement(dtype));
    }
    return out;
  }

  /** {@link readFloat32}, blocking. */
  readFloat32Sync(name: string): Float32Array<ArrayBuffer> {
    const { file, entry, dtype } = this.#findFloat(name);
    const out = new Float32Array((entry.byteLength * 8) / bitsPerElement(dtype));
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, entry.byteLength));
    for (const { begin, end } of chunksOf(entry)) {
      const bytes = buffer.subarray(0, end - begin);
      fillSync(file, entry, bytes, begin);
      widenInto(dtype, bytes, out, (begin * 8) / bitsPerElement(dtype));
    }
    return out;
  }

  /**
   * A tensor as float32 in pieces of whole rows of `width` values, for what is made of it row by row; blocking. Each piece is
   * overwritten by the next one that the reader yields, of whichever tensor: a checkpoint of many would leave much behind.
   */
  *float32RowsSync(name: string, width: number): Generator<Float32Array<ArrayBuffer>> {
    const { file, entry, dtype } = this.#findFloat(name);
    const rowBytes = (width * bitsPerElement(dtype)) / 8;
    const size = Math.max(Math.floor(ROWS_BYTES / rowBytes), 1) * rowBytes;
    const held = Math.min(size, entry.byteLength);
    const { stored, widened } = this.#rowsOf(held, (held * 8) / bitsPerElement(dtype));
    for (let begin = 0; begin < entry.byteLength; begin += size) {
      const bytes = stored.subarray(0, Math.min(size, entry.byteLength - begin));
      fillSync(file, entry, bytes, begin);
      widenInto(dtype, bytes, widened, 0);
      yield widened.subarray(0, (bytes.byteLength * 8) / bitsPerElement(dtype));
    }
  }

  #rowsOf(bytes: number, values: number) {
    const { stored, widened } = this.#rows;
    if (stored.length < bytes || widened.length < values)
      this.#rows = {
        stored: new Uint8Array(Math.max(stored.length, bytes)),
        widened: new Float32Array(Math.max(widened.length, values)),
      };
    return this.#rows;
  }

  /** One of `parts` equal parts of a tensor as float32, as {@link readFloat32} has it; blocking. */
  readFloat32PartSync(name: string, index: number, parts: number): Float32Array<ArrayBuffer> {
    const { entry, dtype } = this.#findFloat(name);
    const bytes = entry.byteLength / parts;
    return widenToFloat32(dtype, this.readPartSync(name, index * bytes, (index + 1) * bytes));
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

function tensorsOf(file: OpenFile): Map<string, StoredTensor> {
  return new Map(file.header.tensors.map((entry) => [entry.name, { file, entry }]));
}
