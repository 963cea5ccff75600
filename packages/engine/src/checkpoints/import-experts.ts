/**
 * Adapters of experts from the forms in which PEFT keeps them (those that peft-files.ts writes, and what PEFT trains itself) to ours,
 * [experts, ...] under `experts.w1`, `w3` and `w2`: each expert's maps apart, or two parameters for all experts.
 */

import { loraShapes } from '../lora/shapes.ts';
import type { LoraModule } from '../models/architecture.ts';
import {
  block,
  expectFoundShape,
  type Found,
  type FoundPair,
  type FoundTensor,
  range,
  refused,
} from './found-tensors.ts';
import { HUB_NAMES, type MapName, type Part, PLACES } from './peft-files.ts';

const APART = /^(?<at>.+\.experts)\.(?<expert>\d+)\.(?<name>gate_proj|up_proj|down_proj)$/;
const FUSED = /^(?<at>.+\.experts)(?:\.base_layer)?$/;
const MAPS = Object.keys(HUB_NAMES) as MapName[];

/** What the file says of the experts of one layer. */
interface Group {
  /** Per map and part, the tensors by expert. */
  apart: Record<MapName, Record<Part, FoundTensor[]>>;
  /** The pairs of parameters that hold all experts. */
  fused: FoundPair[];
}

/** Collects a file's tensors of experts. */
export class FoundExperts {
  readonly #modules: Map<string, LoraModule>;
  readonly #rank: number;
  readonly #groups = new Map<string, Group>();
  readonly #fused = new Map<string, FoundPair>();

  constructor(modules: LoraModule[], rank: number) {
    this.#modules = new Map(modules.flatMap((module) => (module.experts ? [[module.path, module]] : [])));
    this.#rank = rank;
  }

  /** Takes a tensor under PEFT's module path, if it is one of the base model's experts. */
  take(path: string, part: Part, tensor: FoundTensor): boolean {
    const apart = APART.exec(path)?.groups as { at: string; expert: string; name: string } | undefined;
    const at = apart?.at ?? FUSED.exec(path)?.groups?.at;
    if (at === undefined || !this.#modules.has(`${at}.w1`)) return false;
    const group = this.#groups.get(at) ?? emptyGroup();
    this.#groups.set(at, group);
    if (apart) {
      const map = MAPS.find((name) => HUB_NAMES[name] === apart.name)!;
      group.apart[map][part][Number(apart.expert)] = tensor;
      return true;
    }
    const pair = this.#fused.get(path) ?? {};
    if (!this.#fused.has(path)) group.fused.push(pair);
    this.#fused.set(path, pair);
    pair[part] = tensor;
    return true;
  }

  /**
   * All of them by module. Where experts have the same matrices on the side that they may share, that is one matrix, [1, ...].
   * @throws EngineError (user) naming the tensor that is missing or misshapen, or that one adapter per map cannot equal.
   */
  found(): Found {
    const whole: [LoraModule, Required<FoundPair>][] = [];
    for (const [at, { apart, fused }] of this.#groups) {
      for (const map of MAPS) {
        const { A, B } = apart[map];
        const module = this.#modules.get(`${at}.${map}`)!;
        if (A.length > 0 || B.length > 0)
          whole.push([module, { A: this.#stacked(module, 'A', A), B: this.#stacked(module, 'B', B) }]);
      }
      for (const pair of fused) whole.push(...this.#taken(at, pair));
    }
    const isShared = whole.length > 0 && whole.every(([module, pair]) => sharesSide(module, pair));
    const pairs = whole.map(([module, pair]): [string, FoundPair] => [
      module.path,
      isShared ? withOneSide(module, pair) : pair,
    ]);
    return new Map(pairs);
  }

  #shapes(module: LoraModule): Record<Part, number[]> {
    const { a, b } = loraShapes(module, { rank: this.#rank });
    return { A: a, B: b };
  }

  #stacked(module: LoraModule, part: Part, tensors: FoundTensor[]): FoundTensor {
    const { count } = module.experts!;
    const [, ...shape] = this.#shapes(module)[part];
    const there = tensors.find(Boolean);
    for (let expert = 0; expert < count; expert++) {
      const tensor = tensors[expert];
      if (tensor) expectFoundShape(tensor, shape, this.#rank);
      else {
        const name = `${module.path.replace(/w\d$/, '')}${expert}.${HUB_NAMES[module.key as MapName]}`;
        const other = there ? `, but there is "${there.name}"` : '';
        throw refused(`${name}.lora_${part}.weight`, `is missing${other}: all experts are adapted, or none.`);
      }
    }
    const extra = tensors[count];
    if (extra) throw refused(extra.name, `cannot be imported: the base model has ${count} experts.`);
    return {
      name: there!.name,
      shape: [count, ...shape],
      values: () => joined(tensors.map((one) => one.values())),
    };
  }

  /** Gate and up, or down, of all experts from one pair of parameters. */
  #taken(at: string, { A, B }: FoundPair): [LoraModule, Required<FoundPair>][] {
    const known = A ?? B!;
    if (!A || !B) throw refused(known.name, `has no ${A ? 'lora_B' : 'lora_A'} beside it.`);
    const module = (map: MapName) => this.#modules.get(`${at}.${map}`)!;
    const [gate, down] = [module('w1'), module('w2')];
    const isDown = A.shape[1] === down.inFeatures && B.shape[0] === down.outFeatures;
    const maps = isDown ? [down] : [gate, module('w3')];
    const { count, layout } = gate.experts!;
    const rank = this.#rank;
    const own = (A.shape[0] ?? 0) / count;
    // Gate and up have adapters of their own, side by side, or one together.
    const apart = !isDown && own === 2 * rank;
    const fusedRank = apart ? 2 * rank : rank;
    const [{ inFeatures, outFeatures }] = maps as [LoraModule];
    const rows = maps.length * outFeatures;
    expectFoundShape(A, [fusedRank * count, inFeatures], rank);
    expectFoundShape(B, [rows, fusedRank * count], rank);
    if (apart) refuseMixed(B, { count, rank, size: outFeatures, place: PLACES[layout] });
    return maps.map((one, i) => {
      const first = apart ? i * rank : 0;
      const a = () => {
        const values = A.values();
        return joined(
          range(0, count).map((expert) => {
            const start = (expert * fusedRank + first) * inFeatures;
            return values.subarray(start, start + rank * inFeatures);
          }),
        );
      };
      const placed = range(0, outFeatures).map((row) => (isDown ? row : PLACES[layout](row, i, outFeatures)));
      const b = () => {
        const values = B.values();
        const columns = (expert: number) => range(first * count + expert, rank, count);
        return joined(
          range(0, count).map((expert) => block(values, fusedRank * count, placed, columns(expert))),
        );
      };
      const shapes = this.#shapes(one);
      return [
        one,
        { A: { name: A.name, shape: shapes.A, values: a }, B: { name: B.name, shape: shapes.B, values: b } },
      ];
    });
  }
}

function emptyGroup(): Group {
  const none = () => ({ A: [], B: [] });
  return { apart: { w1: none(), w3: none(), w2: none() }, fused: [] };
}

/** Rows of gate may read gate's half of the rank alone, and rows of up the other: else they are no two adapters. */
function refuseMixed(
  { name, values: read }: FoundTensor,
  sizes: {
    count: number;
    rank: number;
    size: number;
    place: (row: number, map: number, rows: number) => number;
  },
): void {
  const { count, rank, size, place } = sizes;
  const values = read();
  const width = 2 * rank * count;
  for (const map of [0, 1]) {
    const others = range((1 - map) * rank * count, rank * count);
    const rows = range(0, size).map((row) => place(row, map, size));
    if (block(values, width, rows, others).some((value) => value !== 0))
      throw refused(
        name,
        `cannot be imported: gate and up use one adapter of rank ${2 * rank}, and there is room for ${rank} each.`,
      );
  }
}

/** Whether all experts have the same matrix on the side that adapters may share. */
function sharesSide({ experts }: LoraModule, pair: Required<FoundPair>): boolean {
  const { shared, count } = experts!;
  const values = (shared === 'a' ? pair.A : pair.B).values();
  const size = values.length / count;
  return count > 1 && values.every((value, i) => value === values[i % size]);
}

function withOneSide({ experts }: LoraModule, pair: Required<FoundPair>): FoundPair {
  const { shared, count } = experts!;
  const part = shared === 'a' ? 'A' : 'B';
  const { name, shape, values } = pair[part];
  const one = () => {
    const all = values();
    return all.slice(0, all.length / count);
  };
  return { ...pair, [part]: { name, shape: [1, ...shape.slice(1)], values: one } };
}

function joined(parts: Float32Array[]): Float32Array {
  const values = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    values.set(part, at);
    at += part.length;
  }
  return values;
}
