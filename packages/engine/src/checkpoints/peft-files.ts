/**
 * A checkpoint's adapter under the names and in the shapes that PEFT reads. They differ from ours for fused maps that are adapted
 * by blocks (peft-split.ts), and for experts: ours are [experts, ...] under `experts.w1`, `w3` and `w2` (gate, up, down), with 1 for
 * a side that experts share.
 */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  openSafetensors,
  type SafetensorsReader,
  type TensorToWrite,
  writeSafetensors,
} from '@anneal/safetensors';
import type { ExpertLayout } from '../models/architecture.ts';
import { ADAPTER, ADAPTER_CONFIG, readExpertLayout } from './checkpoint-files.ts';
import { wholeMaps } from './peft-split.ts';

/** PEFT's name of an expert's parameter: `PATH.experts.w1.lora_A.weight`. */
const EXPERT = /^(?<at>.+\.experts)\.(?<map>w[123])\.lora_(?<part>[AB])\.weight$/;
export const HUB_NAMES = { w1: 'gate_proj', w3: 'up_proj', w2: 'down_proj' } as const;

/** What `adapter_config.json` says of which modules are adapted, as far as we write it. */
interface Targets {
  r: number;
  lora_alpha: number;
  target_modules: string[];
  rank_pattern?: Record<string, number>;
  alpha_pattern?: Record<string, number>;
  [key: string]: unknown;
}

/**
 * Writes `adapter_model.safetensors` and `adapter_config.json` of the checkpoint folder `from` into `to`, as
 * `PeftModel.from_pretrained` loads them onto the model in transformers.
 */
export async function writePeftFiles(from: string, to: string): Promise<void> {
  const reader = openSafetensors(path.join(from, ADAPTER));
  try {
    const names = reader.tensors.map(({ name }) => name);
    const experts = expertsIn(reader, names);
    const whole = wholeMaps(reader, names);
    if (experts.length === 0 && whole.tensors.length === 0) {
      for (const name of [ADAPTER, ADAPTER_CONFIG])
        await copyFile(path.join(from, name), path.join(to, name));
      return;
    }
    const config = JSON.parse(await readFile(path.join(from, ADAPTER_CONFIG), 'utf8')) as Targets;
    const others = names.filter((name) => !EXPERT.test(name) && !whole.replaced.has(name));
    const modules = [...others, ...whole.tensors.map(({ name }) => name)].map(modulePath);
    const layout = experts.length > 0 ? LAYOUTS[readExpertLayout(from)] : undefined;
    const tensors = experts.flatMap((group) => layout!.tensors(reader, group, config.r));
    await writeSafetensors(
      path.join(to, ADAPTER),
      [...others.map((name) => unchanged(reader, name)), ...whole.tensors, ...tensors],
      { ...reader.metadata },
    );
    const targets = layout?.targets(config, experts, modules) ?? { target_modules: leavesOf(modules) };
    const multiples = (of: number) =>
      Object.fromEntries(Object.entries(whole.ranks).map(([leaf, times]) => [leaf, times * of]));
    const patterns = {
      rank_pattern: { ...targets.rank_pattern, ...multiples(config.r) },
      alpha_pattern: { ...targets.alpha_pattern, ...multiples(config.lora_alpha) },
    };
    const written = { ...config, ...targets, ...patterns };
    await writeFile(path.join(to, ADAPTER_CONFIG), `${JSON.stringify(written, null, 2)}\n`);
  } finally {
    reader.close();
  }
}

/** The experts of one layer. */
interface ExpertGroup {
  /** `base_model.model.….experts` */
  at: string;
  count: number;
}

export type MapName = keyof typeof HUB_NAMES;
export type Part = 'A' | 'B';

function expertsIn(reader: SafetensorsReader, names: string[]): ExpertGroup[] {
  const counts = new Map<string, number>();
  for (const name of names) {
    const at = EXPERT.exec(name)?.groups?.at;
    if (at) counts.set(at, Math.max(counts.get(at) ?? 1, reader.info(name).shape[0] as number));
  }
  return [...counts].map(([at, count]) => ({ at, count }));
}

function unchanged(reader: SafetensorsReader, name: string): TensorToWrite {
  const { dtype, shape } = reader.info(name);
  return { name, dtype, shape: [...shape], data: () => reader.read(name) };
}

/** Last names of modules, each once. */
function leavesOf(modules: string[]): string[] {
  return [...new Set(modules.map((module) => module.split('.').at(-1) as string))].sort();
}

/** `base_model.model.PATH.lora_A.weight` → PATH */
function modulePath(name: string): string {
  return name.replace(/^base_model\.model\./, '').replace(/\.lora_[AB]\.weight$/, '');
}

/** A or B of one expert, [rank, in] or [out, rank]; the shared one where there is only that. */
function expertMatrix(
  reader: SafetensorsReader,
  { at }: ExpertGroup,
  map: MapName,
  part: Part,
  expert: number,
) {
  const name = `${at}.${map}.lora_${part}.weight`;
  const [count, ...shape] = reader.info(name).shape as [number, number, number];
  const values = () => reader.readFloat32PartSync(name, count === 1 ? 0 : expert, count);
  return { shape, values };
}

interface PeftLayout {
  tensors(reader: SafetensorsReader, group: ExpertGroup, rank: number): TensorToWrite[];
  /** Keys of `adapter_config.json`; `others` are paths of modules that are no experts. */
  targets(config: Targets, groups: ExpertGroup[], others: string[]): Partial<Targets>;
}

/** Row of the fused map where a row of gate (0) or up (1) lies. */
type Place = (row: number, map: number, rows: number) => number;

const oneAfterTheOther: Place = (row, map, rows) => map * rows + row;

/** Experts that checkpoints have apart lie one after the other where PEFT fuses them. */
export const PLACES: Record<ExpertLayout, Place> = {
  apart: oneAfterTheOther,
  alternating: (row, map) => 2 * row + map,
  joined: oneAfterTheOther,
};

const LAYOUTS: Record<ExpertLayout, PeftLayout> = {
  apart: { tensors: expertsApart, targets: targetsApart },
  alternating: { tensors: expertsFused(PLACES.alternating), targets: targetsFused },
  joined: { tensors: expertsFused(PLACES.joined), targets: targetsFused },
};

/** `….experts.3.gate_proj`, which PEFT fuses itself where transformers does. */
function expertsApart(reader: SafetensorsReader, group: ExpertGroup): TensorToWrite[] {
  return Array.from({ length: group.count }, (_, expert) =>
    (Object.keys(HUB_NAMES) as MapName[]).flatMap((map) =>
      (['A', 'B'] as const).map((part): TensorToWrite => {
        const { shape, values } = expertMatrix(reader, group, map, part, expert);
        const name = `${group.at}.${expert}.${HUB_NAMES[map]}.lora_${part}.weight`;
        return { name, dtype: 'F32', shape, data: values };
      }),
    ),
  ).flat();
}

/**
 * PEFT takes targets named like an expert's map as the fused experts alone. Layers' own MLPs and shared experts have the same
 * names, so they are targeted by their weights, and the experts by number, which older transformers understand as well.
 */
function targetsApart(_config: Targets, groups: ExpertGroup[], others: string[]): Partial<Targets> {
  const names: string[] = Object.values(HUB_NAMES);
  const leafOf = (module: string) => module.split('.').at(-1) as string;
  const alike = others.filter((module) => names.includes(leafOf(module)));
  if (alike.length === 0) {
    return { target_modules: [...new Set([...others.map(leafOf), ...names])].sort() };
  }
  const count = Math.max(...groups.map((group) => group.count));
  const numbered = Array.from({ length: count }, (_, i) =>
    names.map((name) => `experts.${i}.${name}`),
  ).flat();
  const rest = others.map(leafOf).filter((leaf) => !names.includes(leaf));
  const weights = alike.map((module) => `${module.split('.').slice(-2).join('.')}.weight`);
  return {
    target_modules: [...new Set(rest)].sort().concat(numbered),
    target_parameters: [...new Set(weights)].sort(),
  };
}

/**
 * Two parameters for all experts, the second wrapped around the first: `experts.base_layer` is gate and up, of twice the rank,
 * whose rows alternate or follow each other; `experts` is down. A is [experts · rank, in]; B is [out, rank · experts], experts
 * innermost.
 */
function expertsFused(place: Place): PeftLayout['tensors'] {
  return (reader, group, rank) => fusedTensors(reader, group, rank, place);
}

function fusedTensors(
  reader: SafetensorsReader,
  group: ExpertGroup,
  rank: number,
  place: Place,
): TensorToWrite[] {
  const { at, count } = group;
  const matrix = (map: MapName, part: Part) => (expert: number) =>
    expertMatrix(reader, group, map, part, expert).values();
  const shapeOf = (map: MapName, part: Part) => expertMatrix(reader, group, map, part, 0).shape;
  const [, hidden] = shapeOf('w1', 'A') as [number, number];
  const [size] = shapeOf('w1', 'B') as [number, number];
  const stackA = (maps: MapName[], width: number) => () => {
    const values = new Float32Array(count * maps.length * rank * width);
    for (let expert = 0; expert < count; expert++) {
      maps.forEach((map, i) => {
        values.set(matrix(map, 'A')(expert), (expert * maps.length + i) * rank * width);
      });
    }
    return values;
  };
  const spreadB = (maps: MapName[], rows: number) => () => {
    const values = new Float32Array(maps.length * rows * maps.length * rank * count);
    for (let expert = 0; expert < count; expert++) {
      maps.forEach((map, i) => {
        const b = matrix(map, 'B')(expert);
        for (let row = 0; row < rows; row++) {
          const at = maps.length === 1 ? row : place(row, i, rows);
          const start = at * maps.length * rank + i * rank;
          for (let k = 0; k < rank; k++) values[(start + k) * count + expert] = b[row * rank + k] as number;
        }
      });
    }
    return values;
  };
  const tensor = (name: string, shape: number[], data: () => Float32Array): TensorToWrite => ({
    name: `${at}.${name}.weight`,
    dtype: 'F32',
    shape,
    data,
  });
  return [
    tensor('base_layer.lora_A', [2 * rank * count, hidden], stackA(['w1', 'w3'], hidden)),
    tensor('base_layer.lora_B', [2 * size, 2 * rank * count], spreadB(['w1', 'w3'], size)),
    tensor('lora_A', [rank * count, size], stackA(['w2'], size)),
    tensor('lora_B', [hidden, rank * count], spreadB(['w2'], hidden)),
  ];
}

function targetsFused(config: Targets, _groups: ExpertGroup[], others: string[]): Partial<Targets> {
  const fused = 'experts.gate_up_proj';
  return {
    target_modules: leavesOf(others),
    target_parameters: ['experts.down_proj', fused],
    rank_pattern: { [fused]: 2 * config.r },
    alpha_pattern: { [fused]: 2 * config.lora_alpha },
  };
}
