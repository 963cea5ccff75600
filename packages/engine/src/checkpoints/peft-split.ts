/**
 * Adapters of a fused map by its row blocks (`in_proj_q`, `in_proj_k`, `in_proj_v`), for PEFT, which knows the map as a whole: one
 * adapter of three times the rank, whose A stacks the blocks' and whose B has each block's in rows and columns of its own.
 */
import type { SafetensorsReader, TensorToWrite } from '@anneal/safetensors';

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
