/** Who is admitted next, so that one client's thousand prompts do not keep another's single one waiting. */
import type { Job } from './job.ts';

/**
 * Start-time fair queueing (Goyal et al. 1996, doi 10.1145/248156.248171) over samplers: whoever has been given less comes first, and
 * one that starts to wait begins at the least of those that do.
 */
export class FairTurns {
  readonly #given = new Map<string, number>();

  /** The waiting jobs, those of samplers that were given less first; in order of arrival within one. */
  ordered(waiting: readonly Job[]): Job[] {
    const bySampler = new Map<string, Job[]>();
    for (const job of waiting) {
      const { samplerId } = job.request;
      const jobs = bySampler.get(samplerId);
      if (jobs) jobs.push(job);
      else bySampler.set(samplerId, [job]);
    }
    for (const samplerId of this.#given.keys()) if (!bySampler.has(samplerId)) this.#given.delete(samplerId);
    const least = this.#given.size > 0 ? Math.min(...this.#given.values()) : 0;
    for (const samplerId of bySampler.keys())
      if (!this.#given.has(samplerId)) this.#given.set(samplerId, least);
    return [...bySampler]
      .sort(([a], [b]) => this.#given.get(a)! - this.#given.get(b)!)
      .flatMap(([, jobs]) => jobs);
  }

  /** Notes what a sampler was given, in tokens. */
  note(samplerId: string, tokens: number): void {
    const given = this.#given.get(samplerId);
    if (given !== undefined) this.#given.set(samplerId, given + tokens);
  }
}
