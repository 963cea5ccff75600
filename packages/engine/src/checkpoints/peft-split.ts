/**
 * Adapters of a fused map by its row blocks (`in_proj_q`, `in_proj_k`, `in_proj_v`), for PEFT, which knows the map as a whole: one
 * adapter of three times the rank, whose A stacks the blocks' and whose B has each block's in rows and columns of its own.
 */
import type { SafetensorsReader, TensorToWrite } from '@anneal/safetensors';
import type { LoraModule } from '../models/architecture.ts';
import { block, expectFoundShape, type Found, type FoundPair, range, refused } from './found-tensors.ts';

const BLOCK = /^(?<at>.+\.in_proj_)(?<block>[qkv])\.lora_A\.weight$/;
const BLOCKS = ['q', 'k', 'v'] as const;
/** PEFT's name of the whole map. */
const WHOLE = 'qkv';

export interface WholeMaps {
  tensors: TensorToWrite[];
  /** Names in the file that those replace. */
  replaced: Set<string>;
  /** Last names of the maps, and how many times the adapter's rank each has. */
  ranks: Record<string, number>;
}

/** The fused maps that `names` adapt by blocks, as PEFT takes them. */
export function wholeMaps(reader: SafetensorsReader, names: string[]): WholeMaps {
  const starts = new Set(names.flatMap((name) => BLOCK.exec(name)?.groups?.at ?? []));
  const parts = (at: string, part: 'A' | 'B') => BLOCKS.map((block) => `${at}${block}.lora_${part}.weight`);
  return {
    tensors: [...starts].flatMap((at) => [
      stacked(reader, parts(at, 'A'), `${at}${WHOLE}.lora_A.weight`),
      diagonal(reader, parts(at, 'B'), `${at}${WHOLE}.lora_B.weight`),
    ]),
    replaced: new Set([...starts].flatMap((at) => [...parts(at, 'A'), ...parts(at, 'B')])),
    ranks: starts.size > 0 ? { [`in_proj_${WHOLE}`]: BLOCKS.length } : {},
  };
}

/** [rank, in] three times → [3 · rank, in]. */
function stacked(reader: SafetensorsReader, from: string[], name: string): TensorToWrite {
  const [rank, width] = reader.info(from[0]!).shape as [number, number];
  const data = (): Float32Array => {
    const values = new Float32Array(from.length * rank * width);
    from.forEach((part, i) => {
      values.set(reader.readFloat32Sync(part), i * rank * width);
    });
    return values;
  };
  return { name, dtype: 'F32', shape: [from.length * rank, width], data };
}

/** [rows, rank] three times, rows differing → [Σ rows, 3 · rank], zero outside of each block. */
function diagonal(reader: SafetensorsReader, from: string[], name: string): TensorToWrite {
  const shapes = from.map((part) => reader.info(part).shape as [number, number]);
  const rows = shapes.reduce((sum, [own]) => sum + own, 0);
  const columns = shapes.reduce((sum, [, rank]) => sum + rank, 0);
  const data = (): Float32Array => {
    const values = new Float32Array(rows * columns);
    let [top, left] = [0, 0];
    from.forEach((part, i) => {
      const block = reader.readFloat32Sync(part);
      const [own, rank] = shapes[i]!;
      for (let row = 0; row < own; row++)
        values.set(block.subarray(row * rank, (row + 1) * rank), (top + row) * columns + left);
      top += own;
      left += rank;
    });
    return values;
  };
  return { name, dtype: 'F32', shape: [rows, columns], data };
}

/**
 * Puts adapters of whole maps in `found` back into those of their blocks: the inverse of {@link wholeMaps}.
 * @throws EngineError (user) where a block's rows use another block's columns.
 */
export function splitWholeMaps(found: Found, modules: LoraModule[], rank: number): void {
  const byPath = new Map(modules.map((module) => [module.path, module]));
  for (const [path, { A, B }] of [...found]) {
    const at = path.slice(0, -WHOLE.length);
    const blocks = BLOCKS.map((name) => byPath.get(`${at}${name}`));
    if (!path.endsWith(`in_proj_${WHOLE}`) || !A || !B || blocks.includes(undefined)) continue;
    const sizes = blocks.map((module) => module!.outFeatures);
    const columns = BLOCKS.length * rank;
    const width = A.shape[1] ?? 0;
    expectFoundShape(A, [columns, blocks[0]!.inFeatures], rank);
    expectFoundShape(B, [sizes.reduce((sum, size) => sum + size, 0), columns], rank);
    found.delete(path);
    let top = 0;
    BLOCKS.forEach((name, i) => {
      const rows = range(top, sizes[i]!);
      const own = range(i * rank, rank);
      const others = range(0, columns).filter((column) => !own.includes(column));
      const pair: FoundPair = {
        A: {
          name: A.name,
          shape: [rank, width],
          values: () => block(A.values(), width, own, range(0, width)),
        },
        B: { name: B.name, shape: [sizes[i]!, rank], values: () => block(B.values(), columns, rows, own) },
      };
      if (block(B.values(), columns, rows, others).some((value) => value !== 0))
        throw refused(
          B.name,
          'cannot be imported: its parts use one adapter, and there is room for one each.',
        );
      found.set(`${at}${name}`, pair);
      top += sizes[i]!;
    });
  }
}
