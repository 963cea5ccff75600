/**
 * Makes a checkpoint of random bfloat16 weights from a config.json, to try models of a size for which no weights are at hand:
 * node --conditions=@anneal/source tools/make-random-checkpoint.ts CONFIG.json FOLDER [GIB_PER_FILE]
 *
 * Takes the dense families and Qwen3-MoE. Needs little memory and as much disk as the weights take.
 */
import { randomFillSync } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Architecture, DecoderConfig } from '../packages/engine/src/models/architecture.ts';
import { findArchitecture } from '../packages/engine/src/models/registry.ts';
import type { WeightSource } from '../packages/engine/src/models/weight-source.ts';
import { type TensorToWrite, writeSafetensors } from '../packages/safetensors/src/index.ts';

/** Values that are made at once. */
const PIECE = 2 ** 22;
const GIB = 2 ** 30;

interface Stored {
  name: string;
  shape: number[];
}

/** Names and shapes of the tensors that a checkpoint with this config.json has. */
export function tensorsOf(json: unknown): Stored[] {
  const architecture = findArchitecture(json);
  const config = architecture.parseConfig(json);
  const { embed, finalNorm, head } = architecture.outerTensors(config);
  const matrix = [config.vocabSize, config.hiddenSize];
  const outer = [
    { name: embed, shape: matrix },
    { name: finalNorm, shape: [config.hiddenSize] },
    ...(head ? [{ name: head, shape: matrix }] : []),
  ];
  const layers = Array.from({ length: config.numLayers }, (_, layer) =>
    Object.values(architecture.layerTensors(config, layer)).flatMap((source) =>
      storedBy(source, architecture, config, layer),
    ),
  );
  return [...outer, ...layers.flat()];
}

function storedBy(
  source: WeightSource,
  architecture: Architecture,
  config: DecoderConfig,
  layer: number,
): Stored[] {
  if (typeof source !== 'string' && 'shape' in source) {
    // Nothing is stored in another way yet: experts come apart.
    const shares = source.shares?.({ has: () => false } as never);
    if (shares) return shares.map(({ name, shape }) => ({ name, shape: [...shape] }));
    throw new Error('this family stores weights in a form that is not known here');
  }
  const name = typeof source === 'string' ? source : source.wide;
  return [{ name, shape: shapeOf(name, architecture, config, layer) }];
}

function shapeOf(name: string, architecture: Architecture, config: DecoderConfig, layer: number): number[] {
  const { hiddenSize, headDim, numHeads, numKvHeads, modelType } = config;
  const [, at, kind] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
  const module = architecture.layerModules(config, layer).find(({ path: own }) => own === at);
  if (module) return kind === 'weight' ? [module.outFeatures, module.inFeatures] : [module.outFeatures];
  const ofHead = /\.([qk])_norm\.weight$/.exec(name)?.[1];
  if (ofHead) {
    const heads = modelType === 'olmo2' ? { q: numHeads, k: numKvHeads }[ofHead as 'q' | 'k'] : 1;
    return [heads * headDim];
  }
  if (/layernorm\.weight$/.test(name)) return [hiddenSize];
  const { numExperts } = config as { numExperts?: number };
  if (numExperts !== undefined && name.endsWith('.mlp.gate.weight')) return [numExperts, hiddenSize];
  throw new Error(`tensor "${name}": its shape is not known here`);
}

/** Norms of ones (as they are before training; of zeros where the family adds one), and the rest random in ±2⁻⁵. */
function* values({ name, shape }: Stored, modelType: string): Generator<Uint16Array> {
  const size = shape.reduce((product, dim) => product * dim, 1);
  for (let made = 0; made < size; made += PIECE) {
    const bits = new Uint16Array(Math.min(PIECE, size - made));
    if (/norm\.weight$/.test(name)) bits.fill(modelType.startsWith('gemma3') ? 0 : 0x3f80);
    else {
      randomFillSync(bits);
      // A sign, one of two exponents, and seven bits of mantissa: magnitudes from 2⁻⁷ to 2⁻⁵.
      for (let i = 0; i < bits.length; i++) bits[i] = (bits[i]! & 0x80ff) + 0x3c00;
    }
    yield bits;
  }
}

/** Writes the checkpoint; files take about `fileBytes` each. */
export async function makeRandomCheckpoint(
  configFile: string,
  folder: string,
  fileBytes = 4 * GIB,
): Promise<void> {
  const json = JSON.parse(readFileSync(configFile, 'utf8')) as { model_type: string };
  const files: Stored[][] = [[]];
  let bytes = 0;
  const bytesOf = ({ shape }: Stored) => shape.reduce((product, dim) => product * dim, 2);
  for (const tensor of tensorsOf(json)) {
    if (bytes > 0 && bytes + bytesOf(tensor) > fileBytes) {
      files.push([]);
      bytes = 0;
    }
    files.at(-1)!.push(tensor);
    bytes += bytesOf(tensor);
  }
  mkdirSync(folder, { recursive: true });
  copyFileSync(configFile, path.join(folder, 'config.json'));
  const weightMap: Record<string, string> = {};
  const number = (value: number) => String(value).padStart(5, '0');
  for (const [i, tensors] of files.entries()) {
    const file = `model-${number(i + 1)}-of-${number(files.length)}.safetensors`;
    for (const { name } of tensors) weightMap[name] = file;
    const written = tensors.map(
      (tensor): TensorToWrite => ({ ...tensor, dtype: 'BF16', data: () => values(tensor, json.model_type) }),
    );
    await writeSafetensors(path.join(folder, file), written, { format: 'pt' });
  }
  const totalSize = files.flat().reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  const index = { metadata: { total_size: totalSize }, weight_map: weightMap };
  writeFileSync(path.join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [config, folder, gib = '4'] = process.argv.slice(2);
  if (!config || !folder || !(Number(gib) > 0)) {
    process.stderr.write('make-random-checkpoint CONFIG.json FOLDER [GIB_PER_FILE]\n');
    process.exit(2);
  }
  await makeRandomCheckpoint(config, folder, Number(gib) * GIB);
}
