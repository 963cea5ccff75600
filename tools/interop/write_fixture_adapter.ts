/**
 * Writes the initial adapter of a family's fixture as this engine exports it, for peft to read:
 * node --conditions=@anneal/source write_fixture_adapter.ts FAMILY VARIANT OUT
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { writeCheckpoint } from '../../packages/engine/src/checkpoints/checkpoint-files.ts';
import { writePeftFiles } from '../../packages/engine/src/checkpoints/peft-files.ts';
import { LoraAdapter } from '../../packages/engine/src/lora/adapter.ts';
import { BaseModel } from '../../packages/engine/src/models/base-model.ts';
import { archFixture, loraSpec } from '../../packages/engine/src/testing/fixtures.ts';
import '../../packages/engine/src/testing/tensorflow.ts';

const [family, variant, out] = process.argv.slice(2) as [string, string, string];
const fixture = archFixture(family);
const { rank, alpha, adapters, options } = fixture.reference.lora[variant]!;
const file = fixture.lora(variant);
const trainUnembed = adapters.some(({ key }) => key === 'lm_head');
const splitFused = adapters.some(({ key }) => key.endsWith('.in_proj_q'));
const adapter = LoraAdapter.from(
  BaseModel.load(fixture.modelDir, 'fp32'),
  loraSpec({ rank, alpha, trainUnembed, shareExperts: options?.shared, splitFused }),
  ({ path: module }) => ({
    a: file.readFloat32Sync(`init.${module}.lora_A.weight`),
    b: file.readFloat32Sync(`init.${module}.lora_B.weight`),
  }),
);
const checkpoint = mkdtempSync(path.join(tmpdir(), 'anneal-interop-'));
try {
  await writeCheckpoint(checkpoint, family, adapter);
  await writePeftFiles(checkpoint, out);
} finally {
  rmSync(checkpoint, { recursive: true });
}
