import type { LoraSpec } from '@anneal/engine';
import type { RunLora } from '@anneal/store';

/** The engine's form of a run's adapter. */
export function toLoraSpec({ seed, ...rest }: RunLora): LoraSpec {
  return seed === null ? rest : { ...rest, seed };
}

/** What the store keeps of an adapter. */
export function toRunLora(lora: LoraSpec): RunLora {
  const { seed, ...rest } = lora;
  return { ...rest, seed: seed ?? null };
}
