/** Every registered loss against finite differences, with its default config and once per choice that its config offers. */
import { expect, test } from 'vitest';
import { z } from 'zod';
import '../testing/tensorflow.ts';
import { checkGradient } from './gradient-check.ts';
import type { LossDefinition } from './loss.ts';
import { findLoss, lossNames } from './registry.ts';
import { seededRandom } from './testing.ts';

/** The default config; each value of each choice; each number that is off by default, switched on. */
function configsOf({ config }: LossDefinition): Record<string, number | string>[] {
  const { properties = {} } = z.toJSONSchema(config, { io: 'input' });
  const variants = Object.entries(properties).flatMap(([key, schema]): Record<string, number | string>[] => {
    if (typeof schema === 'boolean') return [];
    if (schema.enum) return schema.enum.map((value) => ({ [key]: String(value) }));
    return schema.type === 'number' && !schema.default ? [{ [key]: 0.3 }] : [];
  });
  const switches = Object.assign(
    {},
    ...variants.filter((variant) => typeof Object.values(variant)[0] === 'number'),
  );
  return [
    {},
    ...variants.map((variant) => ({
      ...variant,
      ...(Object.keys(switches).length > 0 && 'reference' in variant && switches),
    })),
  ];
}

const cases = lossNames().flatMap((name) =>
  configsOf(findLoss(name)).map((config) => ({ name, config, title: `${name} ${JSON.stringify(config)}` })),
);

test.each(cases)('$title', ({ name, config }) => {
  const { largest, error } = checkGradient(findLoss(name), config, seededRandom(7));
  expect(largest).toBeGreaterThan(0);
  expect(error).toBeLessThan(5e-3);
});
