/** Rotary tables of one {@link RopeConfig}, computed once per length and shared by the layers that use it. */
import { tf } from '@anneal/tensorflow';
import { axialRopeTable, type RopeConfig, type RopeTensors, ropeTable } from '../layers/rotary.ts';

export class RopeTables {
  readonly #config: RopeConfig;
  readonly #maxLength: number;
  readonly #byLength = new Map<number, RopeTensors>();
  #host: { length: number; cos: Float32Array; sin: Float32Array } = {
    length: 0,
    cos: new Float32Array(0),
    sin: new Float32Array(0),
  };

  /** @param maxLength The model's context; host tables grow no further unless asked for a longer one. */
  constructor(config: RopeConfig, maxLength: number) {
    this.#config = config;
    this.#maxLength = maxLength;
  }

  /** Positions 0 … length - 1, [1, length, dim / 2]; kept, and owned by the tables. */
  upTo(length: number): RopeTensors {
    let tensors = this.#byLength.get(length);
    if (!tensors) {
      const table = ropeTable(this.#config, length);
      tensors = toTensors(table, [1, length, this.#config.dim / 2]);
      this.#byLength.set(length, tensors);
    }
    return tensors;
  }

  /** Single positions, [positions, 1, dim / 2]; the caller frees them. */
  at(positions: number[]): RopeTensors {
    return toTensors(this.valuesAt(positions), [positions.length, 1, this.#config.dim / 2]);
  }

  /** The values of {@link at}. */
  valuesAt(positions: number[]): { cos: Float32Array; sin: Float32Array } {
    const half = this.#config.dim / 2;
    this.#growHost(Math.max(...positions) + 1);
    const pick = (table: Float32Array) => {
      const rows = new Float32Array(positions.length * half);
      positions.forEach((position, i) => {
        rows.set(table.subarray(position * half, (position + 1) * half), i * half);
      });
      return rows;
    };
    const { cos, sin } = this.#host;
    return { cos: pick(cos), sin: pick(sin) };
  }

  /** Positions start … start + length - 1, [1, length, dim / 2]; the caller frees them. */
  from(start: number, length: number): RopeTensors {
    const half = this.#config.dim / 2;
    this.#growHost(start + length);
    const part = (table: Float32Array) => table.slice(start * half, (start + length) * half);
    const { cos, sin } = this.#host;
    return toTensors({ cos: part(cos), sin: part(sin) }, [1, length, half]);
  }

  /** Positions along three axes, [rows, width, dim / 2]; the caller frees them. */
  along(axes: readonly [Int32Array, Int32Array, Int32Array], [rows, width]: [number, number]): RopeTensors {
    return toTensors(axialRopeTable(this.#config, axes), [rows, width, this.#config.dim / 2]);
  }

  #growHost(longest: number): void {
    if (this.#host.length >= longest) return;
    const length = Math.min(
      Math.max(longest, 2 * this.#host.length, 512),
      Math.max(longest, this.#maxLength),
    );
    this.#host = { length, ...ropeTable(this.#config, length) };
  }

  dispose(): void {
    for (const { cos, sin } of this.#byLength.values()) tf.dispose([cos, sin]);
    this.#byLength.clear();
  }
}

function toTensors(
  { cos, sin }: { cos: Float32Array; sin: Float32Array },
  shape: [number, number, number],
): RopeTensors {
  return { cos: tf.tensor3d(cos, shape), sin: tf.tensor3d(sin, shape) };
}
