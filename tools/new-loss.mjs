/**
 * `node tools/new-loss.mjs NAME` writes a loss, its test and its line in the registry: a loss that works, to be changed
 * step by step into the one you want. NAME is what requests will pass as `loss_fn`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const REPOSITORY = dirname(dirname(fileURLToPath(import.meta.url)));

const lossSource = (name, identifier) => `import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { LossDefinition } from './loss.ts';

/** Your formula here, and the paper it is from. This one is −scale · Σ w · log p(target). */
export const ${identifier}: LossDefinition<{ scale: number }> = {
  name: '${name}',
  config: z.strictObject({ scale: z.number().gt(0).default(1) }),
  inputs: { weights: { default: 1, min: 0 } },
  compute: ({ logprobs, inputs }, { scale }) => {
    const elementwise = tf.mul(tf.mul(inputs.weights!, logprobs), -scale);
    return { loss: tf.sum(elementwise), elementwise, metrics: {} };
  },
};
`;

const testSource = (file, identifier) => `import { expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { ${identifier} } from './${file}.ts';
import { evaluate } from './testing.ts';

test('value and gradient, computed elsewhere', () => {
  const { loss, gradients } = evaluate(${identifier}, { scale: 2 }, [
    { logprobs: [-1, -0.5], inputs: { weights: [1, 3] } },
    { logprobs: [-2], inputs: {} },
  ]);
  expect(loss).toBeCloseTo(9, 6);
  expect(gradients).toEqual([[-2, -6], [-2]]);
});
`;

function fail(message) {
  console.error(`new-loss: ${message}`);
  process.exit(1);
}

/** Adds the import in its alphabetical place, and the loss at the end of the list. */
function withLoss(registry, file, identifier) {
  const lines = registry.split('\n');
  const isOurs = (line) => /^import .* from '\.\/.*';$/.test(line);
  const pathOf = (line) => line.slice(line.indexOf("'./"));
  const line = `import { ${identifier} } from './${file}.ts';`;
  const after = lines.findLastIndex((other) => isOurs(other) && pathOf(other) < pathOf(line));
  lines.splice((after < 0 ? lines.findIndex(isOurs) - 1 : after) + 1, 0, line);
  const list = /(const BUILT_IN: LossDefinition\[\] = \[[^\]]*?),?(\s*\];)/;
  const text = lines.join('\n');
  if (!list.test(text)) fail('registry.ts has no list BUILT_IN; add the loss by hand.');
  return text.replace(list, `$1, ${identifier}$2`);
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { root: { type: 'string' } } });
const [name] = positionals;
if (!/^[a-z][a-z0-9]*(_[a-z0-9]+)*$/.test(name ?? '')) {
  fail(
    'usage: node tools/new-loss.mjs NAME, with NAME in lower case: letters, digits and single underscores.',
  );
}
const root = values.root ?? REPOSITORY;
const file = name.replaceAll('_', '-');
const identifier = name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
const folder = join(root, 'packages/engine/src/losses');
const [loss, test, registry] = [`${file}.ts`, `${file}.test.ts`, 'registry.ts'].map((path) =>
  join(folder, path),
);
for (const path of [loss, test]) if (existsSync(path)) fail(`${relative(root, path)} is there already.`);

const registered = withLoss(readFileSync(registry, 'utf8'), file, identifier);
writeFileSync(loss, lossSource(name, identifier));
writeFileSync(test, testSource(file, identifier));
writeFileSync(registry, registered);
const biome = join(REPOSITORY, 'node_modules/.bin/biome');
if (existsSync(biome)) spawnSync(biome, ['check', '--write', loss, test, registry], { cwd: REPOSITORY });

console.log(
  `Wrote ${[loss, test].map((path) => relative(root, path)).join(' and ')}, and registered ${name}.`,
);
console.log(
  `Next: npx vitest run packages/engine/src/losses/${file}.test.ts packages/engine/src/losses/gradients.test.ts`,
);
