// The header of a GGUF file, checked, and its tensors read one at a time.
import { type FileHandle, open } from 'node:fs/promises';
import { GGMLQuantizationType, gguf } from '@huggingface/gguf';
import type { z } from 'zod';
import {
  dequantize,
  encodedByteLength,
  GGUF_ENCODINGS,
  type GgufEncoding,
  isGgufEncoding,
} from './dequantize.ts';
import { GgufError } from './errors.ts';

export interface GgufTensor {
  readonly name: string;
  readonly encoding: GgufEncoding;
  /** Slowest axis first, as in checkpoints; GGUF itself lists the fastest first. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly position: number;
  readonly byteLength: number;
}

/** An open GGUF file. */
export class GgufFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly #handle: FileHandle;
  readonly #metadata: Readonly<Record<string, unknown>>;

  private constructor(
    file: string,
    handle: FileHandle,
    metadata: Record<string, unknown>,
    tensors: Map<string, GgufTensor>,
  ) {
    this.path = file;
    this.#handle = handle;
    this.#metadata = metadata;
    this.tensors = tensors;
  }

  /** Reads the header. Throws GgufError when the file is no GGUF, is cut off, or holds an encoding that is not known. */
  static async open(file: string): Promise<GgufFile> {
    const { metadata, tensorInfos, tensorDataOffset, littleEndian } = await readHeader(file);
    if (!littleEndian) throw new GgufError(`${file}: big-endian GGUF files are not supported`);
    const handle = await open(file, 'r');
    try {
      const { size } = await handle.stat();
      const tensors = new Map<string, GgufTensor>();
      for (const info of tensorInfos) tensors.set(info.name, parseTensor(info, tensorDataOffset, size, file));
      return new GgufFile(file, handle, { ...metadata }, tensors);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** A metadata value, checked against `schema`. Throws GgufError naming the key. */
  metadata<T>(key: string, schema: z.ZodType<T>): T {
    const parsed = schema.safeParse(this.#metadata[key]);
    if (parsed.success) return parsed.data;
    const problem = this.#metadata[key] === undefined ? 'is missing' : parsed.error.issues[0]?.message;
    throw new GgufError(`${this.path}: metadata key "${key}": ${problem}`);
  }

  /** A tensor's values as float32, in storage order. */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new GgufError(`${this.path}: no tensor "${name}"`);
    const bytes = new Uint8Array(tensor.byteLength);
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await this.#handle.read(bytes, done, bytes.length - done, tensor.position + done);
      if (bytesRead === 0) throw new GgufError(`${this.path}: tensor "${name}": the file is cut off`);
      done += bytesRead;
    }
    return dequantize(tensor.encoding, bytes);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

type Header = Awaited<ReturnType<typeof gguf>>;

async function readHeader(file: string): Promise<Header> {
  try {
    return await gguf(file, { allowLocalFile: true });
  } catch (error) {
    throw new GgufError(`${file}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

function parseTensor(
  info: Header['tensorInfos'][number],
  dataOffset: bigint,
  fileBytes: number,
  file: string,
): GgufTensor {
  const encoding = GGMLQuantizationType[info.dtype] ?? `number ${info.dtype}`;
  if (!isGgufEncoding(encoding)) {
    const known = GGUF_ENCODINGS.join(', ');
    throw new GgufError(
      `${file}: tensor "${info.name}": encoding ${encoding} is not supported (known: ${known})`,
    );
  }
  const shape = info.shape.map(Number).reverse();
  const byteLength = encodedByteLength(
    encoding,
    shape.reduce((product, size) => product * size, 1),
  );
  const position = Number(dataOffset + info.offset);
  if (byteLength === undefined || !Number.isSafeInteger(position + byteLength)) {
    throw new GgufError(`${file}: tensor "${info.name}": shape [${shape}] is not possible for ${encoding}`);
  }
  if (position + byteLength > fileBytes) {
    throw new GgufError(
      `${file}: tensor "${info.name}": the file is cut off (${fileBytes} bytes); fetch it again`,
    );
  }
  return { name: info.name, encoding, shape, position, byteLength };
}
