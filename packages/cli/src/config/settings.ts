/**
 * Derives, from one zod object, how each of its keys is given: `dataDir` is the flag `--data-dir`, the environment
 * variable `ANNEAL_DATA_DIR` and the key `dataDir` of the configuration file.
 */
import { z } from 'zod';

export type SettingKind = 'text' | 'number' | 'boolean' | 'list' | 'map';

export interface Setting {
  key: string;
  flag: string;
  env: string;
  /** A second variable that other programs use too; `env` wins. */
  commonEnv?: string;
  kind: SettingKind;
  /** What values are allowed, in words: `0 to 65535`, `fp32 or bf16`. */
  allowed?: string;
  description: string;
  default?: unknown;
  /** Never printed. */
  secret: boolean;
}

interface PropertySchema {
  type?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  minimum?: number;
  maximum?: number;
  anyOf?: PropertySchema[];
  secret?: boolean;
  commonEnv?: string;
}

/** All settings of a configuration schema, in its order. */
export function settingsOf(schema: z.ZodObject): Setting[] {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  const properties = (json.properties ?? {}) as Record<string, PropertySchema>;
  return Object.entries(properties).map(([key, property]) => setting(key, property));
}

function setting(key: string, property: PropertySchema): Setting {
  const words = key
    .replace(/[MK]iB$/, (unit) => `${unit[0]}ib`)
    .replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  const variant = property.anyOf?.find((option) => option.type !== 'null') ?? property;
  return {
    key,
    flag: `--${words}`,
    env: `ANNEAL_${words.replaceAll('-', '_').toUpperCase()}`,
    kind: kindOf(variant),
    allowed: allowedValues(variant),
    description: property.description ?? '',
    default: property.default,
    secret: property.secret === true,
    commonEnv: property.commonEnv,
  };
}

function kindOf(property: PropertySchema): SettingKind {
  switch (property.type) {
    case 'integer':
    case 'number':
      return 'number';
    case 'boolean':
      return 'boolean';
    case 'array':
      return 'list';
    case 'object':
      return 'map';
    default:
      return 'text';
  }
}

function allowedValues(property: PropertySchema): string | undefined {
  if (property.enum) return property.enum.join(' or ');
  const { minimum, maximum } = property;
  const low = minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER;
  const high = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  if (low && high) return `${minimum} to ${maximum}`;
  if (low) return `at least ${minimum}`;
  return high ? `at most ${maximum}` : undefined;
}
