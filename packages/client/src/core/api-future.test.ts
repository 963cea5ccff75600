import { expect, expectTypeOf, test } from 'vitest';
import { APIFuture, type FutureContext } from './api-future.ts';
import { CancelledError, ResultTimeoutError } from './errors.ts';

const never = <T>() => new Promise<T>(() => {});

test('the work starts at the call, before anything is awaited', () => {
  let started = false;
  new APIFuture(async () => {
    started = true;
  });
  expect(started).toBe(true);
});

test('it is a promise: awaited, raced, combined', async () => {
  const future = new APIFuture(async () => 7);
  expect(await future).toBe(7);
  expect(await Promise.all([future, future.result(), Promise.race([future])])).toEqual([7, 7, 7]);
  expect(await future.then((value) => value + 1)).toBe(8);
  expectTypeOf(future).toExtend<Promise<number>>();
});

test('a failure that nobody awaits is not an unhandled rejection', async () => {
  const unhandled: unknown[] = [];
  const listen = (reason: unknown) => unhandled.push(reason);
  process.on('unhandledRejection', listen);
  const future = new APIFuture(async () => {
    throw new Error('late');
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  process.off('unhandledRejection', listen);
  expect(unhandled).toEqual([]);
  await expect(future).rejects.toThrow('late');
});

test('cancel ends the wait and tells the work', async () => {
  let context: FutureContext | undefined;
  const future = new APIFuture((given) => {
    context = given;
    return never<number>();
  });
  future.cancel();
  await expect(future).rejects.toBeInstanceOf(CancelledError);
  expect(context?.signal.aborted).toBe(true);
});

test('a timeout ends that wait alone, unless the work is to be stopped with it', async () => {
  let finish: (value: number) => void = () => {};
  const future = new APIFuture(() => new Promise<number>((resolve) => (finish = resolve)));
  await expect(future.result({ timeout: 5 })).rejects.toBeInstanceOf(ResultTimeoutError);
  finish(3);
  expect(await future.result({ timeout: 1000 })).toBe(3);
  const stopped = new APIFuture(() => never<number>(), { cancelOnTimeout: true });
  await expect(stopped.result({ timeout: 5 })).rejects.toBeInstanceOf(ResultTimeoutError);
  await expect(stopped).rejects.toBeInstanceOf(ResultTimeoutError);
});

test('a signal of one wait ends that wait; the signal of the call ends the work', async () => {
  const waiting = new AbortController();
  const calling = new AbortController();
  const future = new APIFuture(() => never<number>(), { signal: calling.signal });
  const wait = future.result({ signal: waiting.signal });
  waiting.abort(new Error('this wait'));
  await expect(wait).rejects.toThrow('this wait');
  calling.abort(new Error('the call'));
  await expect(future).rejects.toThrow('the call');
});

test('request ids appear when the server gives them', async () => {
  const future = new APIFuture(async ({ promised }) => {
    await Promise.resolve();
    promised('a');
    promised('b');
  });
  expect(future.requestId).toBeUndefined();
  await future;
  expect([future.requestId, future.requestIds]).toEqual(['a', ['a', 'b']]);
});
