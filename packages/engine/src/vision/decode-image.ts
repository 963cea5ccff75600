/**
 * PNG and JPEG files as 8-bit RGB, value for value as Pillow and transformers read them: upright (EXIF), colour profiles left
 * aside, transparency over white. By sharp, whose JPEG decoder is that of Pillow's family, libjpeg-turbo.
 */
import type { Metadata, Sharp, SharpOptions } from 'sharp';
import { EngineError } from '../engine.ts';
import type { RgbImage } from './resize.ts';

export type ImageFormat = 'png' | 'jpeg';

/** An image whose size is known, before its pixels are decoded. */
export interface OpenedImage {
  width: number;
  height: number;
  decode(): Promise<RgbImage>;
}

/** Larger ones are refused: a small file may unfold to any size. */
const MAX_PIXELS = 2 ** 26;

/**
 * Reads the head of an image file.
 * @throws EngineError (user) for what is no file of the format, or is too large; its message goes on from the image's name.
 */
export async function openImage(data: Uint8Array, format: ImageFormat): Promise<OpenedImage> {
  const sharp = await loadSharp();
  const image = sharp(data, { autoOrient: true, ignoreIcc: true, failOn: 'error', limitInputPixels: false });
  const metadata = await readable(format, () => image.metadata());
  refuseUnsupported(metadata, format);
  const { width, height } = metadata.autoOrient;
  return { width, height, decode: () => readable(format, () => decode(image)) };
}

async function loadSharp(): Promise<(data: Uint8Array, options: SharpOptions) => Sharp> {
  try {
    return (await import('sharp')).default;
  } catch (cause) {
    throw new EngineError('server', `Images need the npm package "sharp": ${(cause as Error).message}`, {
      cause,
    });
  }
}

async function readable<T>(format: ImageFormat, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new EngineError('user', `is no readable ${format} file: ${(cause as Error).message}`, { cause });
  }
}

function refuseUnsupported({ format: found, width, height, space }: Metadata, format: ImageFormat): void {
  const refuse = (problem: string) => new EngineError('user', problem);
  if (found !== format) throw refuse(`says format "${format}", but is a ${found} file`);
  if (width * height > MAX_PIXELS)
    throw refuse(`has ${width} × ${height} pixels: at most ${MAX_PIXELS} are read; send a smaller one`);
  if (space === 'cmyk') throw refuse('is in CMYK: send it in RGB');
}

async function decode(image: Sharp): Promise<RgbImage> {
  const { data, info } = await image
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  return { width, height, pixels: toRgb(data, width * height, channels) };
}

/** Channels are RGB or grey, with or without alpha. */
function toRgb(data: Uint8Array, count: number, channels: number): Uint8Array {
  if (channels === 3) return new Uint8Array(data);
  const pixels = new Uint8Array(3 * count);
  const colours = channels > 2 ? [0, 1, 2] : [0, 0, 0];
  for (let i = 0; i < count; i++) {
    const alpha = channels % 2 === 0 ? data[(i + 1) * channels - 1]! : 255;
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = overWhite(data[i * channels + colours[c]!]!, alpha);
  }
  return pixels;
}

/** Pillow's alpha_composite over opaque white, to the bit: seven digits behind the point, rounded division by 255. */
function overWhite(value: number, alpha: number): number {
  if (alpha === 0) return 255;
  const own = alpha << 7;
  const sum = value * own + 255 * ((255 << 7) - own) + (0x80 << 7);
  return (((sum >> 8) + sum) >> 8) >> 7;
}
