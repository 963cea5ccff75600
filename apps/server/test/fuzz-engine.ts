import { join } from 'node:path';
import type { BaseModelInfo, SampleOptions, SampleRequest, SampleResult } from '@anneal/engine';
import { FakeEngine } from './fake-engine.ts';

const FOLDER = join(import.meta.dirname, '../../../packages/tokenizer/fixtures/qwen2');

/** The fake engine with a real tokenizer's folder; it also streams what it draws, with candidates. */
export class FuzzEngine extends FakeEngine {
  override async baseModels(): Promise<BaseModelInfo[]> {
    return (await super.baseModels()).map((model) => ({ ...model, folder: FOLDER }));
  }

  override async sample(request: SampleRequest, options?: SampleOptions): Promise<SampleResult> {
    const result = await super.sample(request, options);
    const k = request.topkSampleLogprobs;
    const sequences = result.sequences.map((drawn) => {
      const { length } = drawn.tokens;
      if (k === 0) return drawn;
      const tokenIds = Int32Array.from({ length: length * k }, (_, cell) => cell % 300);
      return { ...drawn, topk: { k, length, tokenIds, logprobs: new Float32Array(length * k).fill(-2) } };
    });
    for (const [sequence, { tokens, logprobs }] of sequences.entries()) {
      options?.onProgress?.({ sequence, tokens, logprobs });
    }
    return { ...result, sequences };
  }
}
