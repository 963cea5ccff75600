import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findPostgres, startPostgres, type TestPostgres } from '../test/postgres.ts';
import {
  BlobMissingError,
  createStore,
  type Database,
  DatabaseInUseError,
  LocalBlobs,
  openPostgres,
  openSqlite,
  type Session,
  type Store,
  type StoredCheckpoint,
  type TrainingRun,
} from './index.ts';

const postgresBin = await findPostgres();
let postgres: TestPostgres | undefined;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'anneal-store-'));
  if (postgresBin) postgres = await startPostgres(postgresBin);
});
afterAll(async () => {
  await postgres?.stop();
  await rm(folder, { recursive: true });
});

const databases: [string, () => Promise<Database>][] = [
  ['SQLite', () => openSqlite(join(folder, `${randomUUID()}.sqlite`))],
];
if (postgresBin) databases.push(['PostgreSQL', async () => openPostgres(await postgres!.newDatabase())]);
else console.warn('PostgreSQL is not installed: the store is tested on SQLite only');

function run(id: string, owner = 'ada', createdAt = 1): TrainingRun {
  return {
    id,
    sessionId: 's',
    owner,
    projectId: null,
    baseModel: 'tiny',
    lora: {
      rank: 4,
      alpha: 32,
      seed: 2n ** 64n - 1n,
      trainAttn: true,
      trainMlp: false,
      trainUnembed: true,
      shareExperts: true,
    },
    userMetadata: { who: 'ada' },
    createdAt,
    lastRequestAt: 1,
    lastSeq: 0n,
    corrupted: false,
    unloadedAt: null,
    snapshot: null,
    changedSeq: 0n,
  };
}

function checkpoint(runId: string, name: string, createdAt = 1): StoredCheckpoint {
  return {
    runId,
    kind: 'weights',
    name,
    owner: 'ada',
    blob: `checkpoints/${runId}-${name}-${createdAt}`,
    files: [{ name: 'adapter_config.json', size: 2, sha256: 'ab' }],
    sizeBytes: 2 ** 40,
    public: false,
    userMetadata: null,
    baseModel: 'tiny',
    loraRank: 4,
    trainAttn: true,
    trainMlp: true,
    trainUnembed: false,
    createdAt,
    expiresAt: null,
  };
}

function session(id: string, createdAt: number): Session {
  return {
    id,
    owner: 'pager',
    projectId: null,
    displayName: null,
    tags: ['a'],
    userMetadata: { k: 'v' },
    sdkVersion: '0.38.0',
    createdAt,
    lastHeartbeatAt: 0,
    finishedAt: null,
    finishReason: null,
    finishDetail: null,
  };
}

describe.each(databases)('on %s', (_name, openDatabase) => {
  let store: Store;
  let database: Database;
  beforeAll(async () => {
    database = await openDatabase();
    store = createStore(database, await LocalBlobs.open(join(folder, randomUUID())));
  });
  afterAll(() => store.close());

  test('a key is found by its secret until it is revoked, and the secret is not stored', async () => {
    const { key, secret } = await store.keys.create('ada', 'laptop');
    expect(secret).toMatch(/^tml-/);
    expect(await store.keys.find(secret)).toEqual(key);
    const rows = await database.db.selectFrom('api_keys').selectAll().execute();
    expect(JSON.stringify(rows)).not.toContain(secret);
    expect(await store.keys.revoke(key.id)).toBe(true);
    expect(await store.keys.find(secret)).toBeUndefined();
    expect(await store.keys.revoke(key.id)).toBe(false);
  });

  test('a secret setting is made once', async () => {
    const first = await store.settings.secret('downloads');
    expect(first).toHaveLength(64);
    expect(await store.settings.secret('downloads')).toBe(first);
  });

  test('runs come back as they were, with 64-bit seeds', async () => {
    const original = run('roundtrip:train:0', 'roundtrip');
    expect(await store.runs.create(original)).toBe(true);
    expect(await store.runs.create({ ...original, baseModel: 'other' })).toBe(false);
    expect(await store.runs.get(original.id)).toEqual(original);
  });

  test('runs are listed newest first, and those of others only when something is published', async () => {
    await store.runs.create(run('a', 'lister', 10));
    await store.runs.create(run('b', 'lister', 20));
    await store.runs.create(run('c', 'stranger', 30));
    const ids = async (accessible: boolean) => {
      const page = await store.runs.list('lister', { limit: 10, offset: 0, accessible });
      expect(page.total).toBe(page.rows.length);
      return page.rows.map((row) => row.id);
    };
    expect(await ids(true)).toEqual(['b', 'a']);
    await store.checkpoints.put({ ...checkpoint('c', 'shared'), owner: 'stranger', public: true }, false);
    expect(await ids(false)).toEqual(['b', 'a']);
    expect(await ids(true)).toEqual(['c', 'b', 'a']);
    const page = await store.runs.list('lister', { limit: 1, offset: 1, accessible: false });
    expect([page.rows[0]?.id, page.total]).toEqual(['a', 2]);
  });

  test('the same request id is recorded once, and counts on its run exactly', async () => {
    await store.runs.create(run('seq:train:0'));
    const seq = 10n ** 18n + 1n;
    const future = {
      requestId: `seq:train:0:${seq}`,
      owner: 'ada',
      kind: 'optim_step',
      modelId: 'seq:train:0',
      samplerId: null,
      seq,
      bodyHash: 'h',
    };
    expect(await store.futures.submit(future)).toBeUndefined();
    expect(await store.futures.submit({ ...future, bodyHash: 'other' })).toMatchObject({
      bodyHash: 'h',
      seq,
    });
    expect(await store.runs.get('seq:train:0')).toMatchObject({ lastSeq: seq, changedSeq: 0n });
    const lora = { ...run('x').lora, rank: 16 };
    const snapshot = { seq, step: 7, blob: 'snapshots/a', withOptimizer: true };
    const effect = {
      runId: 'seq:train:0',
      changedSeq: seq,
      snapshot,
      adapter: { baseModel: 'small', lora },
    };
    const body = Buffer.from('{}');
    await store.futures.finish(future.requestId, { state: 'done', resultType: 'json', body }, effect);
    expect(await store.runs.get('seq:train:0')).toMatchObject({
      changedSeq: seq,
      snapshot,
      lora,
      baseModel: 'small',
    });
    expect(await store.futures.sequence('seq:train:0')).toEqual([seq]);
  });

  test('results are kept after they were read, then expire, then are forgotten', async () => {
    const future = {
      requestId: 'x',
      owner: 'ada',
      kind: 'forward',
      modelId: null,
      samplerId: null,
      seq: null,
      bodyHash: 'h',
    };
    await store.futures.submit(future);
    const body = Buffer.from([0, 255, 1]);
    await store.futures.finish('x', { state: 'done', resultType: 'protobuf', body });
    await store.futures.markRead(['x']);
    const past = Date.now() - 60_000;
    const soon = Date.now() + 60_000;
    await store.futures.sweep({ readBefore: past, finishedBefore: past, forgetBefore: past });
    expect(Buffer.from((await store.futures.result('x')) ?? [])).toEqual(body);
    await store.futures.sweep({ readBefore: soon, finishedBefore: past, forgetBefore: past });
    expect(await store.futures.result('x')).toBeUndefined();
    expect(await store.futures.get('x')).toMatchObject({ state: 'expired' });
    await store.futures.sweep({ readBefore: soon, finishedBefore: past, forgetBefore: soon });
    expect(await store.futures.get('x')).toBeUndefined();
  });

  test('what a crash left unfinished is ended: samples may be sent again, the rest fails', async () => {
    const future = (requestId: string, kind: string) => ({
      requestId,
      owner: 'ada',
      kind,
      modelId: null,
      samplerId: null,
      seq: null,
      bodyHash: 'h',
    });
    await store.futures.failUnfinished('An earlier restart');
    await store.futures.submit(future('lost-sample', 'sample'));
    await store.futures.submit(future('lost-step', 'optim_step'));
    expect(await store.futures.failUnfinished('The server restarted')).toBe(2);
    expect(await store.futures.get('lost-sample')).toMatchObject({ state: 'expired' });
    expect(await store.futures.get('lost-step')).toMatchObject({ state: 'failed', category: 'server' });
  });

  test('an existing checkpoint name is refused without overwrite and replaced with it', async () => {
    const first = checkpoint('over', 'a', 1);
    const second = checkpoint('over', 'a', 2);
    expect(await store.checkpoints.put(first, false)).toEqual({ exists: false, replacedBlob: null });
    expect(await store.checkpoints.put(second, false)).toEqual({ exists: true });
    expect(await store.checkpoints.put(second, true)).toEqual({ exists: false, replacedBlob: first.blob });
    expect(await store.checkpoints.get(second)).toEqual(second);
  });

  test('the latest checkpoint of a run and kind is found, on equal times by name', async () => {
    for (const [name, time] of [
      ['a', 5],
      ['b', 7],
      ['c', 7],
      ['d', 6],
    ] as const) {
      await store.checkpoints.put(checkpoint('latest', name, time), false);
    }
    const latest = await store.checkpoints.latest(['latest', 'nothing']);
    expect(latest.map((row) => row.name)).toEqual(['c']);
  });

  test('content is removed when the last row that needs it is gone', async () => {
    const { blobs, checkpoints, samplers } = store;
    const scratch = await blobs.scratch();
    await writeFile(join(scratch, 'file'), 'abcdef');
    const row = { ...checkpoint('blob', 'a'), blob: 'checkpoints/held' };
    await blobs.put(row.blob, scratch);
    await checkpoints.put(row, false);
    await samplers.create({
      id: 'holder',
      sessionId: 's',
      owner: 'ada',
      baseModel: 'tiny',
      modelPath: null,
      blob: row.blob,
      clones: 0,
      createdAt: 1,
      lastUsedAt: 1,
      expiredAt: null,
    });
    await checkpoints.delete(row);
    await store.releaseBlob(row.blob);
    expect(await text(await blobs.read(row.blob, 'file', { start: 2, end: 3 }))).toBe('cd');
    await samplers.expire(['holder'], 2);
    await store.releaseBlob(row.blob);
    await expect(blobs.local(row.blob)).rejects.toThrow(BlobMissingError);
  });

  test('sessions are paged newest first, on equal times by id', async () => {
    for (let i = 0; i < 5; i += 1) await store.sessions.create(session(`page-${i}`, 100 + Math.floor(i / 2)));
    const first = await store.sessions.after('pager', undefined, 2);
    expect(first.map((row) => row.id)).toEqual(['page-4', 'page-3']);
    const rest = await store.sessions.after('pager', first[1], 9);
    expect(rest.map((row) => row.id)).toEqual(['page-2', 'page-1', 'page-0']);
    expect((await store.sessions.list('pager', 2, 3)).map((row) => row.id)).toEqual(['page-1', 'page-0']);
    expect(await store.sessions.storedBy('page-0')).toEqual({ count: 0, bytes: 0 });
  });

  test('completions of a sampler are read in the order in which they ended', async () => {
    const ids = ['c1', 'c2', 'c3'];
    for (const requestId of ids) {
      await store.futures.submit({
        requestId,
        owner: 'ada',
        kind: 'sample',
        modelId: null,
        samplerId: 'completions',
        seq: 1n,
        bodyHash: 'h',
      });
    }
    const failed = { state: 'failed', error: 'no', category: 'user' } as const;
    for (const requestId of ['c2', 'c1']) await store.futures.finish(requestId, failed);
    const rows = await store.futures.completed('completions', 0, 10);
    expect(rows.map((row) => row.requestId)).toEqual(['c2', 'c1']);
    const later = await store.futures.completed('completions', rows[0]!.completion, 10);
    expect(later.map((row) => row.requestId)).toEqual(['c1']);
  });

  test('the first reason to finish a session wins', async () => {
    await store.sessions.finish('page-0', 'errored', 'boom', 5);
    await store.sessions.finish('page-0', 'success', null, 6);
    expect(await store.sessions.get('page-0')).toMatchObject({ finishReason: 'errored', finishedAt: 5 });
  });

  test('a write that fails leaves its neighbours in the same group alone', async () => {
    await store.settings.secret('taken');
    const writes = await Promise.allSettled([
      database.write((db) => db.insertInto('settings').values({ name: 'g1', value: 'a' }).execute()),
      database.write(async (db) => {
        await db.insertInto('settings').values({ name: 'g2', value: 'a' }).execute();
        await db.insertInto('settings').values({ name: 'taken', value: 'b' }).execute();
      }),
      database.write((db) => db.insertInto('settings').values({ name: 'g3', value: 'a' }).execute()),
    ]);
    expect(writes.map((write) => write.status).filter((status) => status === 'rejected')).toHaveLength(1);
    const rows = await database.db
      .selectFrom('settings')
      .select('name')
      .where('name', 'in', ['g1', 'g2', 'g3'])
      .execute();
    expect(rows.map((row) => row.name).sort()).toEqual(['g1', 'g3']);
  });
});

test.runIf(postgresBin)('a PostgreSQL database is claimed by one server until it closes', async () => {
  const url = await postgres!.newDatabase();
  const [first, second] = [await openPostgres(url), await openPostgres(url)];
  await first.claim();
  await expect(second.claim()).rejects.toThrow(DatabaseInUseError);
  await first.close();
  await second.claim();
  await second.close();
});

test('half-written content of an earlier process is cleared, finished content is kept', async () => {
  const root = join(folder, 'restart');
  const before = await LocalBlobs.open(root);
  const done = await before.scratch();
  await writeFile(join(done, 'file'), 'kept');
  await before.put('a/b', done);
  const half = await before.scratch();
  await writeFile(join(half, 'file'), 'lost');
  await LocalBlobs.openBeside(root);
  expect(await readFile(join(half, 'file'), 'utf8')).toBe('lost');
  const after = await LocalBlobs.open(root);
  expect(await readFile(join(await after.local('a/b'), 'file'), 'utf8')).toBe('kept');
  expect(await readdir(join(root, 'scratch'))).toEqual([]);
});
