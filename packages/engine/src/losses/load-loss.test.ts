import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { checkGradient } from './gradient-check.ts';
import { loadLossModule } from './load-loss.ts';
import { findLoss } from './registry.ts';
import { evaluate, seededRandom } from './testing.ts';

const dir = mkdtempSync(path.join(tmpdir(), 'anneal-loss-'));

function moduleFile(name: string, source: string): string {
  const file = path.join(dir, name);
  writeFileSync(file, source);
  return file;
}

const focal = (name: string) => `({ tf, z }) => ({
  name: '${name}',
  config: z.strictObject({ gamma: z.number().min(0).default(2) }),
  inputs: { weights: { default: 1 } },
  compute({ logprobs, inputs }, { gamma }) {
    const focus = tf.pow(tf.sub(1, tf.exp(logprobs)), gamma);
    const elementwise = tf.neg(tf.mul(tf.mul(inputs.weights, focus), logprobs));
    return { loss: tf.sum(elementwise), elementwise, metrics: {} };
  },
})`;

test('a module brings a loss, which is then found by its name', async () => {
  expect(await loadLossModule(moduleFile('focal.mjs', `export default ${focal('focal')};`))).toBe('focal');
  const { loss } = evaluate(findLoss('focal'), { gamma: 1 }, [{ logprobs: [Math.log(0.25)], inputs: {} }]);
  expect(loss).toBeCloseTo(-0.75 * Math.log(0.25), 6);
  expect(checkGradient(findLoss('focal'), {}, seededRandom(1)).error).toBeLessThan(5e-3);
});

test('TypeScript, under the name "loss"', async () => {
  const source = `type Kit = { tf: any; z: any };\nexport const loss = (kit: Kit) => (${focal('focal_ts')})(kit);`;
  expect(await loadLossModule(moduleFile('focal.ts', source))).toBe('focal_ts');
});

test.each([
  ['missing.mjs', undefined, /missing\.mjs could not be loaded/],
  ['syntax.mjs', 'export default {', /syntax\.mjs could not be loaded/],
  [
    'empty.mjs',
    'export const other = 1;',
    /empty\.mjs must export a loss as default or as "loss"; it exports other/,
  ],
  [
    'throws.mjs',
    'export default () => { throw new Error("boom"); };',
    /throws\.mjs threw when it was called: Error: boom/,
  ],
  [
    'wrong.mjs',
    'export default { name: "My Loss", config: {}, inputs: {}, compute: 1 };',
    /wrong\.mjs does not export a loss: name: must be lower case.*config: must be a zod schema.*compute: must be a function/,
  ],
  [
    'typo.mjs',
    `export default (kit) => ({ ...(${focal('focal_typo')})(kit), groupsize: 2 });`,
    /typo\.mjs does not export a loss.*groupsize/,
  ],
  [
    'linear.mjs',
    `export default (kit) => ({ ...(${focal('focal_linear')})(kit), linearWeights: 'weight' });`,
    /linearWeights names "weight", which is not among its inputs/,
  ],
  ['taken.mjs', `export default ${focal('ppo')};`, /"ppo": that name is taken/],
])('%s is refused', async (name, source, message) => {
  const file = source === undefined ? path.join(dir, name) : moduleFile(name, source);
  await expect(loadLossModule(file)).rejects.toThrow(message);
});
