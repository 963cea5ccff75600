/** What a benchmark measures: an engine in this process, or a server by its URL, behind the few calls that cases make. */

export interface GenerateOptions {
  prompt: Int32Array;
  numSamples: number;
  maxTokens: number;
  /** Score the prompt too. */
  promptLogprobs?: boolean;
  /** Called for each token that is drawn; only where the subject streams. */
  onToken?: (sequence: number) => void;
}

/** A frozen set of weights to sample from. */
export interface BenchSampler {
  /** Greedy, stopped by nothing but the length; resolves to the number of tokens drawn. */
  generate(options: GenerateOptions): Promise<number>;
  close(): Promise<void>;
}

/** A LoRA model in training: rank 16 on attention and MLP. */
export interface BenchModel {
  /** Cross-entropy over sequences of token ids: each is trained on its next token, so n + 1 ids are n tokens of work. */
  forwardBackward(sequences: Int32Array[]): Promise<void>;
  optimStep(): Promise<void>;
  sampler(): Promise<BenchSampler>;
  close(): Promise<void>;
}

export interface Subject {
  readonly label: string;
  readonly maxContextLength: number;
  readonly vocabSize: number;
  /** Whether tokens are seen as they are drawn; without it, only whole answers can be timed. */
  readonly streams: boolean;
  /** The process that computes, where it runs on this machine. */
  readonly pid: number | undefined;
  createModel(): Promise<BenchModel>;
  /** Runs `work` and says what share of the positions computed in training passes held no token; absent: unknown. */
  paddingWaste?(work: () => Promise<void>): Promise<number>;
  close(): Promise<void>;
}

export const BENCH_RANK = 16;
export const BENCH_ALPHA = 32;
