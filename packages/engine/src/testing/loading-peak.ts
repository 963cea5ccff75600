/** A program: `loading-peak.ts FOLDER PRECISION` prints what loading a checkpoint took at most, and what its weights take, in bytes. */
import { readFileSync } from 'node:fs';
import { tf } from '@anneal/tensorflow';
import { BaseModel } from '../models/base-model.ts';
import { weightMemory } from '../models/checkpoint-folder.ts';
import type { Precision } from '../models/weight-source.ts';
import './tensorflow.ts';

/** A line of Linux's account of this process. */
function held(key: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1]);
}

const [folder, precision] = process.argv.slice(2) as [string, Precision];
tf.add(1, tf.zeros([4])).dataSync();
const before = held('VmRSS');
BaseModel.load(folder, precision);
console.log(JSON.stringify({ peak: held('VmHWM') - before, weights: weightMemory(folder)[precision] }));
