/** A model's eyes: from decoded images to features, the latest of which are kept, since rollouts and epochs repeat images. */
import { createHmac, randomBytes } from 'node:crypto';
import type { SafetensorsReader } from '@anneal/safetensors';
import { type MatmulPrecision, profiled, tf } from '@anneal/tensorflow';
import type { EngineImage } from '../engine.ts';
import type { Precision } from '../models/weight-source.ts';
import { type ImageProcessor, toPatches } from './image-processor.ts';
import { type ImageFeatures, VisionTower } from './qwen3-vl-tower.ts';
import type { VisionConfig } from './vision-config.ts';

const KEPT_BYTES = 2 ** 28;
/** Of this process alone, so that nobody can make an image that is taken for another. */
const SECRET = randomBytes(32);

const digests = new WeakMap<EngineImage, Buffer>();

/** 32 bytes that are equal for equal images. */
export function imageDigest(image: EngineImage): Buffer {
  let digest = digests.get(image);
  if (!digest) {
    const { width, height, pixels } = image;
    digest = createHmac('sha256', SECRET).update(`${width} ${height} `).update(pixels).digest();
    digests.set(image, digest);
  }
  return digest;
}

export class ImageEncoder {
  readonly config: VisionConfig;
  readonly #processor: ImageProcessor;
  readonly #tower: VisionTower;
  /** By digest, the latest used last. */
  readonly #kept = new Map<string, ImageFeatures>();

  constructor(
    reader: SafetensorsReader,
    config: VisionConfig,
    processor: ImageProcessor,
    options: { precision: Precision; matmulPrecision: MatmulPrecision },
  ) {
    this.config = config;
    this.#processor = processor;
    this.#tower = new VisionTower(reader, config, options);
  }

  /** Features of an image; they stay the encoder's, until {@link trim}. */
  encode(image: EngineImage): ImageFeatures {
    const key = imageDigest(image).toString('base64');
    const kept = this.#kept.get(key);
    this.#kept.delete(key);
    const features =
      kept ?? profiled('unit', 'vision tower', () => this.#tower.run(toPatches(image, this.#processor)));
    this.#kept.set(key, features);
    return features;
  }

  /** Forgets what was not used for longest, beyond what is worth keeping. */
  trim(): void {
    let bytes = [...this.#kept.values()].reduce((sum, features) => sum + bytesOf(features), 0);
    for (const [key, features] of this.#kept) {
      if (bytes <= KEPT_BYTES) return;
      bytes -= bytesOf(features);
      this.#kept.delete(key);
      disposeFeatures(features);
    }
  }

  dispose(): void {
    for (const features of this.#kept.values()) disposeFeatures(features);
    this.#kept.clear();
    this.#tower.dispose();
  }
}

function bytesOf({ features, deepstack }: ImageFeatures): number {
  return [features, ...deepstack].reduce((sum, { size }) => sum + 4 * size, 0);
}

function disposeFeatures({ features, deepstack }: ImageFeatures): void {
  tf.dispose([features, ...deepstack]);
}
