/** What a checkpoint folder says of a model, and its weights' files: config.json and headers alone are read. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors, type SafetensorsReader } from '@anneal/safetensors';
import { EngineError } from '../engine.ts';
import { towerSource, type VisionConfig } from '../vision/vision-config.ts';
import type { Architecture, DecoderConfig } from './architecture.ts';
import { findArchitecture } from './registry.ts';
import { type Precision, weightBytes } from './weight-source.ts';

/**
 * Bytes that a checkpoint's weights take in each precision, from its config.json and headers.
 * @throws EngineError (user) for an unsupported architecture, or a tensor that is missing.
 */
export function weightMemory(folder: string): Record<Precision, number> {
  const kind = readKind(folder);
  return withWeights(folder, (reader) => {
    const bytes = (precision: Precision) => totalBytes(reader, kind, precision, true);
    return { auto: bytes('auto'), fp32: bytes('fp32'), bf16: bytes('bf16'), int8: bytes('int8') };
  });
}

/** A checkpoint's family, and its numbers. */
export interface ModelKind {
  architecture: Architecture;
  config: DecoderConfig;
}

/** @throws EngineError (user) for a config.json that cannot be read, or an unsupported architecture. */
export function readKind(folder: string): ModelKind {
  const json = readJson(path.join(folder, 'config.json'));
  const architecture = findArchitecture(json);
  const config = architecture.parseConfig(json);
  const generation = readJsonIfThere(path.join(folder, 'generation_config.json')) as
    | { eos_token_id?: number | number[] }
    | undefined;
  if (generation?.eos_token_id !== undefined)
    config.eosTokenIds = [...new Set([config.eosTokenIds, generation.eos_token_id].flat())];
  return { architecture, config };
}

/** Bytes that the weights take on the device, where it does or does not run compiled functions. */
export function totalBytes(
  reader: SafetensorsReader,
  { architecture, config }: ModelKind,
  precision: Precision,
  compiled: boolean,
): number {
  const layers = Array.from({ length: config.numLayers }, (_, layer) =>
    Object.values(architecture.layerTensors(config, layer)),
  );
  const tower = config.vision
    ? reader.tensors.filter(({ name }) => name.startsWith(`${config.vision!.root}.`))
    : [];
  const sources = [
    ...Object.values(architecture.outerTensors(config)),
    ...layers.flat(),
    ...tower.map(({ name }) => towerSource(config.vision!, name)),
  ];
  return sources.reduce((sum, source) => sum + weightBytes(reader, source, precision, compiled), 0);
}

/** Text-only checkpoints may keep the `vision_config` of what they were made from, but have no tower. */
export function hasTower(reader: SafetensorsReader, { root }: VisionConfig): boolean {
  return reader.has(`${root}.patch_embed.proj.weight`);
}

/** @throws EngineError (user) for files that cannot be read */
export function withWeights<T>(folder: string, use: (reader: SafetensorsReader) => T): T {
  const reader = openWeights(folder);
  try {
    return use(reader);
  } finally {
    reader.close();
  }
}

/** @throws EngineError (user) for files that cannot be read */
export function openWeights(folder: string): SafetensorsReader {
  try {
    return openSafetensors(folder);
  } catch (cause) {
    throw new EngineError('user', `The model's weights cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new EngineError('user', `${file} cannot be read as JSON: ${(cause as Error).message}`, { cause });
  }
}

function readJsonIfThere(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}
