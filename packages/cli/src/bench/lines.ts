/**
 * `anneal bench --lines`: runs one piece of work per line of standard input and answers each with a line, so that another
 * program can take turns between contenders. The same lines are understood by the Python programs in tools/bench.
 *
 * `{"work": "train", "sequences": [[…]]}`: one step; each sequence is trained on its next tokens.
 * `{"work": "generate", "prompts": [[…]], "newTokens": 64, "adapters": 8}`: greedy, prompt i with adapter i modulo their number.
 * Answers: `{"seconds": …, "tokens": …, "parts": {…}, "peakBytes": …}`.
 */
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { timed } from './bench-case.ts';
import { watchPeak } from './memory-watch.ts';
import { closeAll, generateTogether, openSamplers } from './sampling-cases.ts';
import type { BenchModel, BenchSampler, Subject } from './subject.ts';
import { tokensOf, trainStep } from './training-cases.ts';

const Sequence = z
  .array(z.int().min(0))
  .min(1)
  .transform((ids) => Int32Array.from(ids));

const Request = z.discriminatedUnion('work', [
  z.strictObject({ work: z.literal('train'), sequences: z.array(Sequence).min(1) }),
  z.strictObject({
    work: z.literal('generate'),
    prompts: z.array(Sequence).min(1),
    newTokens: z.int().min(1),
    adapters: z.int().min(1).default(1),
  }),
]);

type Request = z.infer<typeof Request>;

/** Answers until the input ends. A line that is no request, or work that fails, ends it with an error. */
export async function answerLines(
  subject: Subject,
  input: NodeJS.ReadableStream,
  output: NodeJS.WritableStream,
): Promise<void> {
  const worker = new LineWorker(subject);
  output.write(`${JSON.stringify({ ready: subject.label })}\n`);
  for await (const line of createInterface({ input })) {
    const answer = await worker.run(Request.parse(JSON.parse(line)));
    output.write(`${JSON.stringify(answer)}\n`);
  }
  await worker.close();
}

/** Keeps one model in training, and as many samplers as the widest request asked for. */
class LineWorker {
  readonly #subject: Subject;
  #model: BenchModel | undefined;
  #samplers: Awaited<ReturnType<typeof openSamplers>> = [];

  constructor(subject: Subject) {
    this.#subject = subject;
  }

  async run(request: Request) {
    const peak = this.#subject.pid === undefined ? undefined : watchPeak(this.#subject.pid);
    const run =
      request.work === 'train' ? await this.#train(request.sequences) : await this.#generate(request);
    return { ...run, peakBytes: peak?.() };
  }

  async #train(sequences: Int32Array[]) {
    this.#model ??= await this.#subject.createModel();
    const model = this.#model;
    return {
      seconds: await timed(() => trainStep(model, sequences)),
      tokens: tokensOf(sequences),
      parts: {},
    };
  }

  async #generate({ prompts, newTokens, adapters }: Extract<Request, { work: 'generate' }>) {
    return generateTogether(this.#subject, await this.#samplersFor(adapters), prompts, newTokens);
  }

  async #samplersFor(count: number): Promise<BenchSampler[]> {
    const missing = count - this.#samplers.length;
    if (missing > 0) this.#samplers.push(...(await openSamplers(this.#subject, missing)));
    return this.#samplers.slice(0, count);
  }

  async close(): Promise<void> {
    await this.#model?.close();
    await closeAll(this.#samplers);
  }
}
