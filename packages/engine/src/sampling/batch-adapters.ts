/**
 * The adapters of a decode batch. Where compiled functions apply them, several are joined into one of their ranks' sum, of which each row
 * uses its own part: every adapter is read once, however many rows have it. Fused layers take them as they are.
 */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';
import type { AdaptedModule, LoraAdapter } from '../lora/adapter.ts';
import { type StackedAdapters, stackAdapters } from '../lora/adapter-stack.ts';
import type { BaseModel } from '../models/base-model.ts';

type Row = LoraAdapter | undefined;

/** `rows` are what fused layers and heads look at; what others do is missing where those take several. */
export interface BatchedAdapters extends StackedAdapters {
  rows: Row[];
}

interface Pair {
  [key: string]: Tensor;
  a: Tensor;
  b: Tensor;
}

/** One module's adapters, joined: A [ranks, in], B [out, ranks]. */
interface Joined {
  key: string;
  owners: LoraAdapter[];
  pair: Pair;
}

const join = compile('join_adapters', ({ modules }: { modules: Pair[][] }) =>
  modules.map((pairs): Pair => {
    const sides = (side: 'a' | 'b') => pairs.map((pair) => pair[side]!);
    return { a: tf.concat(sides('a'), 0) as Tensor, b: tf.concat(sides('b'), 1) as Tensor };
  }),
);

export class BatchAdapters {
  readonly #base: BaseModel;
  readonly #fused: boolean;
  #distinct: Row[] = [];
  #layers: Joined[][] = [];
  #head: Joined | undefined;
  /** What the last answer holds besides the joined adapters. */
  #owned: Tensor[] = [];

  /** @param fused Whether the layers are fused. */
  constructor(base: BaseModel, { fused }: { fused: boolean }) {
    this.#base = base;
    this.#fused = fused;
  }

  /** For rows `rows[i]`; `undefined` is the base model. Valid until the next call; the caller frees nothing. */
  of(rows: Row[]): BatchedAdapters {
    return { ...this.#stacked(rows), rows };
  }

  #stacked(rows: Row[]): StackedAdapters {
    tf.dispose(this.#owned);
    this.#owned = [];
    const distinct = [...new Set(rows)];
    // Native calls take several as they are, and nothing else of such models does.
    if (this.#fused && distinct.length > 1) return { layers: [], head: undefined, owned: [] };
    const { architecture, layers } = this.#base;
    if (distinct.length === 1 || architecture.hasExperts || architecture.takesAdaptersApart) {
      this.#forget();
      const stacked = stackAdapters(rows, layers.length);
      this.#owned = stacked.owned;
      return { ...stacked, owned: [] };
    }
    const isSame =
      distinct.length === this.#distinct.length && distinct.every((one) => this.#distinct.includes(one));
    if (!isSame) this.#join(distinct);
    return this.#masked(rows);
  }

  dispose(): void {
    tf.dispose(this.#owned);
    this.#owned = [];
    this.#forget();
  }

  #forget(): void {
    const joined = [...this.#layers.flat(), ...(this.#head ? [this.#head] : [])];
    tf.dispose(joined.flatMap(({ pair }) => [pair.a, pair.b]));
    this.#layers = [];
    this.#head = undefined;
    this.#distinct = [];
  }

  #join(distinct: Row[]): void {
    this.#forget();
    const adapters = distinct.filter((one) => one !== undefined);
    const wanted = this.#base.layers.map((_, layer) =>
      [...new Set(adapters.flatMap(({ layers }) => layers[layer]!.map(({ module }) => module.key)))].map(
        (key) => ({
          key,
          found: adapters.flatMap((owner) => {
            const adapted = owner.layers[layer]!.find(({ module }) => module.key === key);
            return adapted ? [{ owner, adapted }] : [];
          }),
        }),
      ),
    );
    const heads = adapters.flatMap((owner) => (owner.head ? [{ owner, adapted: owner.head }] : []));
    const modules = [...wanted.flat(), ...(heads.length > 0 ? [{ key: 'head', found: heads }] : [])];
    const pairs = modules.length > 0 ? join({ modules: modules.map(({ found }) => found.map(pairOf)) }) : [];
    let next = 0;
    const joined = ({ key, found }: (typeof modules)[number]): Joined => ({
      key,
      owners: found.map(({ owner }) => owner),
      pair: pairs[next++]!,
    });
    this.#layers = wanted.map((keys) => keys.map(joined));
    this.#head = heads.length > 0 ? joined(modules.at(-1)!) : undefined;
    this.#distinct = distinct;
  }

  #masked(rows: Row[]): StackedAdapters {
    const masks = new Map<string, Tensor>();
    const withMask = ({ owners, pair }: Joined): LoraTensors => {
      const key = owners.map((owner) => this.#distinct.indexOf(owner)).join();
      const mask = masks.get(key) ?? maskOf(rows, owners);
      masks.set(key, mask);
      return { a: pair.a, b: pair.b, scale: 1, mask };
    };
    const layers = this.#layers.map((modules) =>
      Object.fromEntries(modules.map((module) => [module.key, withMask(module)])),
    );
    const head = this.#head && withMask(this.#head);
    this.#owned = [...masks.values()];
    return { layers, head, owned: [] };
  }
}

function pairOf({ adapted }: { adapted: AdaptedModule }): Pair {
  return { a: adapted.a, b: adapted.b };
}

/** alpha / rank where a row's own adapter is, zero elsewhere: [rows, 1, ranks]. */
function maskOf(rows: Row[], owners: LoraAdapter[]): Tensor {
  const ranks = owners.reduce((sum, { spec }) => sum + spec.rank, 0);
  const values = new Float32Array(rows.length * ranks);
  rows.forEach((row, i) => {
    let start = i * ranks;
    for (const owner of owners) {
      if (owner === row) values.fill(owner.scale, start, start + owner.spec.rank);
      start += owner.spec.rank;
    }
  });
  return tf.tensor3d(values, [rows.length, 1, ranks]);
}
