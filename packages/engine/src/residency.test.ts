import { expect, test } from 'vitest';
import { type Loadable, type Release, Residency } from './residency.ts';

const MIB = 2 ** 20;

/** A model of `size` MiB whose loading takes two steps; what happens is noted in `log`. */
class FakeModel implements Loadable {
  readonly name: string;
  readonly weightBytes: number;
  readonly #log: string[];
  problem: Error | undefined;
  queued = false;

  constructor(name: string, size: number, log: string[]) {
    this.name = name;
    this.weightBytes = size * MIB;
    this.#log = log;
  }

  hasQueuedWork(): boolean {
    return this.queued;
  }

  *loading(): Generator<void, void> {
    let done = false;
    try {
      yield;
      if (this.problem) throw this.problem;
      yield;
      this.#log.push(`+${this.name}`);
      done = true;
    } finally {
      if (!done) this.#log.push(`!${this.name}`);
    }
  }

  unload(): void {
    this.#log.push(`-${this.name}`);
  }
}

function models(budget: number, sizes: Record<string, number>) {
  const log: string[] = [];
  const residency = new Residency(budget * MIB);
  const all = Object.fromEntries(
    Object.entries(sizes).map(([name, size]) => [name, new FakeModel(name, size, log)]),
  ) as Record<string, FakeModel>;
  /** Uses a model for a moment. */
  const use = async (name: string) => (await residency.enter(all[name]!))();
  return { log, residency, all, use };
}

/** Time for everything that can happen to have happened. */
const settle = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** What a promise gave by now. */
function watch(promise: Release | Promise<Release>): { release: Release | undefined } {
  const state: { release: Release | undefined } = { release: undefined };
  void Promise.resolve(promise).then((release) => {
    state.release = release;
  });
  return state;
}

test('requests that come together load a model once, and later ones not at all', async () => {
  const { log, use, residency, all } = models(10, { a: 4 });
  await Promise.all([use('a'), use('a'), use('a')]);
  await use('a');
  expect(log).toEqual(['+a']);
  expect(typeof residency.enter(all.a!)).toBe('function');
  expect(residency.counts).toEqual({ loads: 1, unloads: 0 });
});

test('of models without work, the longest unused leaves', async () => {
  const { log, use, residency, all } = models(10, { a: 4, b: 4, c: 4, d: 8 });
  for (const name of ['a', 'b', 'a', 'c']) await use(name);
  expect(log).toEqual(['+a', '+b', '-b', '+c']);
  expect(residency.stateOf(all.b!)).toBe('unloaded');
  expect(residency.bytes).toBe(8 * MIB);
  await use('d');
  expect(log.slice(4)).toEqual(['-a', '-c', '+d']);
});

test('where all have work, one waits until a model has ended what it has, which takes on nothing new', async () => {
  const { log, residency, all } = models(10, { a: 6, b: 6 });
  const first = await residency.enter(all.a!);
  const b = watch(residency.enter(all.b!));
  await new Promise((resolve) => setTimeout(resolve, 30));
  const second = watch(residency.enter(all.a!));
  await settle();
  expect(log).toEqual(['+a']);
  first();
  await settle();
  expect(log).toEqual(['+a', '-a', '+b']);
  expect(second.release).toBeUndefined();
  b.release!();
  await settle();
  expect(log).toEqual(['+a', '-a', '+b', '-b', '+a']);
  second.release!();
});

test('a model with queued work stays as long as its loading took, and leaves then', async () => {
  const { log, all, use } = models(10, { a: 6, b: 6 });
  all.a!.queued = true;
  await use('a');
  await use('b');
  expect(log).toEqual(['+a', '-a', '+b']);
});

test('models that are not in the way are left alone', async () => {
  const { log, use, residency, all } = models(10, { a: 2, b: 6, c: 4 });
  const release = await residency.enter(all.b!);
  await use('a');
  const c = watch(residency.enter(all.c!));
  await settle();
  expect(log).toEqual(['+b', '+a', '-a', '+c']);
  c.release!();
  release();
});

test('a model that never fits is refused with need, budget and option', async () => {
  const { log, residency, all, use } = models(10, { a: 6, big: 11 });
  const release = await residency.enter(all.a!);
  await expect(use('big')).rejects.toMatchObject({
    category: 'user',
    message: expect.stringMatching(/"big".* take 11 MiB.*modelMemoryMiB \(--model-memory-mib\) allows 10/),
  });
  release();
  expect(log).toEqual(['+a']);
});

test('a load that fails is told to all who waited, and tried again by the next', async () => {
  const { log, use, residency, all } = models(10, { a: 6 });
  all.a!.problem = new Error('file is gone');
  const results = await Promise.allSettled([use('a'), use('a')]);
  for (const result of results)
    expect(String((result as PromiseRejectedResult).reason)).toContain(
      'base_model "a" cannot be loaded: file is gone',
    );
  expect(residency.bytes).toBe(0);
  all.a!.problem = undefined;
  await use('a');
  expect(log).toEqual(['!a', '+a']);
});

test('nobody leaves for one who has given up', async () => {
  const { log, residency, all, use } = models(10, { a: 6, b: 6 });
  const release = await residency.enter(all.a!);
  const abort = new AbortController();
  const waiting = residency.enter(all.b!, abort.signal);
  abort.abort(new Error('no longer wanted'));
  await expect(waiting).rejects.toThrow('no longer wanted');
  await new Promise((resolve) => setTimeout(resolve, 30));
  const again = residency.enter(all.a!);
  expect(typeof again).toBe('function');
  (again as Release)();
  release();
  await use('a');
  expect(log).toEqual(['+a']);
});

test('closing refuses those who wait, ends a load, and lets loaded models go on', async () => {
  const { log, residency, all } = models(10, { a: 6, b: 4, c: 4 });
  const release = await residency.enter(all.a!);
  const [b, c] = [residency.enter(all.b!), residency.enter(all.c!)];
  const refused = Promise.allSettled([b, c]);
  await new Promise((resolve) => setImmediate(resolve));
  await residency.close();
  for (const result of await refused)
    expect(result).toMatchObject({ status: 'rejected', reason: { category: 'server' } });
  expect(log).toEqual(['+a', '!b']);
  (residency.enter(all.a!) as Release)();
  release();
  await expect(residency.enter(all.b!)).rejects.toThrow('shutting down');
});
