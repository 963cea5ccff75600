/** Where a model can come from. */
export type ModelSource = 'folder' | 'cache' | 'hub' | 'pypi';

/** One source that was asked for a model, and why it had none. */
export interface SourceAttempt {
  readonly source: ModelSource;
  /** What was asked: a folder, a URL, a package. */
  readonly place: string;
  readonly reason: string;
  /** What the person can do about it, where there is something. */
  readonly advice?: string;
}

/** No source has the model. The message lists what was tried and what to do. */
export class ModelNotFoundError extends Error {
  override readonly name = 'ModelNotFoundError';
  readonly model: string;
  readonly attempts: readonly SourceAttempt[];

  constructor(model: string, attempts: readonly SourceAttempt[]) {
    const tried = attempts.map(({ place, reason }) => `  - ${place}: ${reason}`);
    const advice = [
      ...new Set(attempts.map((attempt) => attempt.advice).filter((text) => text !== undefined)),
    ];
    const lines = [`Model "${model}" was not found. Tried:`, ...tried];
    if (advice.length > 0) lines.push('What to do:', ...advice.map((text) => `  - ${text}`));
    super(lines.join('\n'));
    this.model = model;
    this.attempts = attempts;
  }
}

/** The disk is too full for a model. */
export class DiskFullError extends Error {
  override readonly name = 'DiskFullError';
}

/** Files could not be uploaded to the hub; the message says why and what to do. */
export class HubPushError extends Error {
  override readonly name = 'HubPushError';
}

/** A source has no such model, or cannot be reached: the next one is asked. */
export class SourceUnavailable extends Error {
  override readonly name = 'SourceUnavailable';
  readonly place: string;
  readonly advice: string | undefined;

  constructor(place: string, reason: string, options: { advice?: string; cause?: unknown } = {}) {
    super(reason, { cause: options.cause });
    this.place = place;
    this.advice = options.advice;
  }
}
