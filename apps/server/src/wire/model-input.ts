/** A model's input in the engine's form: token ids, and decoded images with ids in their places. */
import { type BaseModelInfo, EngineError, type EngineImage, imageTokens, openImage } from '@anneal/engine';
import type { DecodedChunk } from '@anneal/types';
import { ApiError } from '../errors.ts';
import type { AssetStore } from '../services/assets.ts';

export interface ModelInputTokens {
  tokens: Int32Array;
  /** Absent where there are none. */
  images?: EngineImage[];
}

export interface InputContext {
  model: BaseModelInfo;
  assets: AssetStore;
}

type ImageChunk = Extract<DecodedChunk, { type: 'image' | 'image_asset_pointer' }>;
type OpenedImage = Awaited<ReturnType<typeof openImage>>;

interface Part {
  name: string;
  tokens: Int32Array;
  image?: OpenedImage;
}

/**
 * Reads chunks, images by their heads first: what does not fit is refused before anything is decoded.
 *
 * @throws ApiError for an image that cannot be read or takes another number of tokens than it says, and for chunks that the
 *   model does not read.
 */
export async function readModelInput(
  chunks: readonly DecodedChunk[],
  path: string,
  context: InputContext,
): Promise<ModelInputTokens> {
  const parts: Part[] = [];
  for (const [index, chunk] of chunks.entries())
    parts.push(await openChunk(chunk, `${path}[${index}]`, context));
  const tokens = joined(parts.map((part) => part.tokens));
  if (!parts.some(({ image }) => image)) return { tokens };
  const limit = context.model.maxContextLength;
  if (tokens.length > limit) {
    const message = `${path}: ${tokens.length} tokens with its images are more than the model's context, ${limit}`;
    throw new ApiError('invalid_request', message);
  }
  return { tokens, images: await decodeAll(parts) };
}

async function openChunk(chunk: DecodedChunk, name: string, context: InputContext): Promise<Part> {
  if (chunk.type === 'encoded_text') return { name, tokens: chunk.tokens };
  const { vision } = context.model;
  if (chunk.type === 'dmel' || !vision) {
    const reads = vision ? 'text and images' : 'text';
    const message = `${name} is of type "${chunk.type}": this model reads ${reads} only`;
    throw new ApiError('invalid_request', message);
  }
  const { format, expectedTokens } = chunk;
  if (format !== 'png' && format !== 'jpeg')
    throw new ApiError('invalid_request', `${name}.format is "${format}": it must be png or jpeg`);
  const data = await bytesOf(chunk, name, context.assets);
  return named(name, async () => {
    const image = await openImage(data, format);
    const count = imageTokens(image, vision);
    if (expectedTokens !== undefined && expectedTokens !== count) {
      const size = `${image.width} × ${image.height} pixels`;
      const message = `${name}.expected_tokens is ${expectedTokens}, but the image (${size}) takes ${count} tokens`;
      throw new ApiError('invalid_request', message);
    }
    return { name, tokens: new Int32Array(count).fill(vision.imageTokenId), image };
  });
}

async function bytesOf(chunk: ImageChunk, name: string, assets: AssetStore): Promise<Uint8Array> {
  return chunk.type === 'image' ? chunk.data : await assets.read(chunk.location, name);
}

async function decodeAll(parts: Part[]): Promise<EngineImage[]> {
  const images: EngineImage[] = [];
  let at = 0;
  for (const { name, tokens, image } of parts) {
    if (image) images.push({ at, ...(await named(name, () => image.decode())) });
    at += tokens.length;
  }
  return images;
}

/** What is wrong with an image, with its place in the request. */
async function named<T>(name: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (!(cause instanceof EngineError)) throw cause;
    const code = cause.category === 'user' ? 'invalid_request' : 'internal';
    throw new ApiError(code, `${name}: ${cause.message}`, { cause });
  }
}

function joined(texts: Int32Array[]): Int32Array {
  if (texts.length === 1 && texts[0]) return texts[0];
  const tokens = new Int32Array(texts.reduce((total, text) => total + text.length, 0));
  let offset = 0;
  for (const text of texts) {
    tokens.set(text, offset);
    offset += text.length;
  }
  return tokens;
}
