/** The machine that numbers were measured on. */
import os from 'node:os';
import { describeCpu, describeMemory } from '@anneal/tensorflow';
import type { BenchResult } from './result.ts';

export async function describeMachine(): Promise<BenchResult['machine']> {
  const { model, cores, features } = await describeCpu();
  return {
    cpu: model,
    cores,
    features: Object.keys(features).filter((name) => features[name]),
    memoryBytes: describeMemory().totalBytes,
    os: `${os.type()} ${os.release()}`,
    node: process.versions.node,
    loadAverage: os.loadavg()[0] ?? 0,
  };
}
