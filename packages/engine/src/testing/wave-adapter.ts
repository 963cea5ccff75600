/** Adapters that do something, with values that a formula gives. */
import { LoraAdapter } from '../lora/adapter.ts';
import { loraShapes, sizeOf } from '../lora/shapes.ts';
import type { BaseModel } from '../models/base-model.ts';
import { loraSpec } from './fixtures.ts';

/** Values below `size`, which the rank moves. */
export function waveAdapter(base: BaseModel, options: Parameters<typeof loraSpec>[0], size = 1 / 8) {
  const spec = loraSpec(options);
  const values = (count: number, by: number) =>
    Float32Array.from({ length: count }, (_, i) => Math.sin(i * by + spec.rank) * size);
  return LoraAdapter.from(base, spec, (module) => {
    const { a, b } = loraShapes(module, spec);
    return { a: values(sizeOf(a), 1.7), b: values(sizeOf(b), 2.3) };
  });
}
