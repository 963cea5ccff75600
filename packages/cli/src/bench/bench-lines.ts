/** `anneal bench --lines`: opens the engine, or the server at `--url`, and does what standard input asks for. */
import type { BenchCommandOptions } from '../commands/bench.ts';
import { keyFor } from './api-key.ts';
import { openEngineSubject } from './engine-subject.ts';
import { findModel } from './find-model.ts';
import { answerLines } from './lines.ts';
import type { Subject } from './subject.ts';
import { openUrlSubject } from './url-subject.ts';

export async function benchLines(options: BenchCommandOptions): Promise<void> {
  const subject = await open(options);
  try {
    await answerLines(subject, process.stdin, process.stdout);
  } finally {
    await subject.close();
  }
}

async function open({ url, model, precision, apiKey }: BenchCommandOptions): Promise<Subject> {
  if (url !== undefined) return openUrlSubject({ url, baseModel: model, apiKey: keyFor(apiKey) });
  const { addonPath, folder } = await findModel(model);
  return openEngineSubject({ addonPath, folder, precision });
}
