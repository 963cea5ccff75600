import { expect, test } from 'vitest';
import { onEachDatabase } from './harness.ts';

onEachDatabase((open) => {
  test('a session lists its runs and samplers, newest sessions first', async () => {
    const server = await open();
    const first = await server.session();
    const second = await server.session();
    const model = await server.model({ session: first });
    const sampler = await server.sampler({ session: first });
    expect((await server.get(`/sessions/${first}`)).json).toMatchObject({
      training_run_ids: [model],
      sampler_ids: [sampler],
    });
    const { sessions } = (await server.get('/sessions?limit=10')).json as { sessions: string[] };
    expect([...sessions].sort()).toEqual([first, second].sort());
  });

  test('the search finds by name, metadata, project and status, in pages', async () => {
    const server = await open();
    const ids: string[] = [];
    for (let i = 0; i < 4; i += 1) {
      const body = {
        sdk_version: '0.38.0',
        display_name: `Pig Latin run ${i}`,
        user_metadata: { parity: i % 2 ? 'odd' : 'even' },
        project_id: i < 2 ? 'a' : 'b',
      };
      ids.push(String((await server.post('/create_session', body)).json.session_id));
    }
    await server.post(`/sessions/${ids[3]}/finish`, { reason: { type: 'errored' }, detail: 'boom' });
    const search = async (body: object) => {
      const { json } = await server.post('/sessions/search', body);
      return json as { sessions: { session_id: string; status: unknown }[]; next_cursor: unknown };
    };
    const found = async (body: object) => (await search(body)).sessions.map((row) => row.session_id).sort();
    expect(await found({ display_name: 'latin PIG' })).toEqual([...ids].sort());
    expect(await found({ user_metadata: { parity: 'odd' } })).toEqual([ids[1], ids[3]].sort());
    expect(await found({ project_ids: ['a'] })).toEqual([ids[0], ids[1]].sort());
    expect(await found({ statuses: [{ type: 'client_finished', reasons: ['errored'] }] })).toEqual([ids[3]]);
    expect((await server.post('/sessions/search', { owner: { type: 'accessible' } })).status).toBe(400);
    expect(await found({ owner: { type: 'own' }, session_id: ids[1] })).toEqual([ids[1]]);
    expect(await found({ session_id: ids[0], display_name: 'run 2' })).toEqual([ids[0], ids[2]].sort());
    const page = await search({ limit: 3 });
    const rest = await search({ limit: 3, cursor: page.next_cursor });
    expect([...page.sessions, ...rest.sessions].map((row) => row.session_id).sort()).toEqual([...ids].sort());
    expect(rest.next_cursor).toBeNull();
  });

  test('a session keeps its tags, names and metadata', async () => {
    const server = await open();
    const body = {
      sdk_version: '0.38.0',
      tags: ['a', 'b'],
      display_name: 'Pig Latin',
      user_metadata: { who: 'ada' },
      project_id: 'p',
    };
    const id = String((await server.post('/create_session', body)).json.session_id);
    expect(await server.store.sessions.get(id)).toMatchObject({
      tags: ['a', 'b'],
      projectId: 'p',
      sdkVersion: '0.38.0',
    });
    expect((await server.get(`/sessions/${id}`)).json).toMatchObject({
      display_name: 'Pig Latin',
      user_metadata: { who: 'ada' },
    });
  });

  test('lists go by limit and offset, and nobody else’s sessions are accessible', async () => {
    const server = await open();
    const ids = [await server.session(), await server.session(), await server.session()];
    const list = async (query: string, key = server.key) => {
      const { json } = await server.get(`/sessions?${query}`, { key });
      return json.sessions as string[];
    };
    expect([...(await list('limit=2')), ...(await list('limit=2&offset=2'))].sort()).toEqual([...ids].sort());
    expect(await list('access_scope=accessible', server.otherKey)).toEqual([]);
    expect((await server.get('/sessions?limit=-1')).status).toBe(400);
  });

  test('a session moves to another project together with its runs', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session });
    await server.call('PUT', `/sessions/${session}/project`, { project_id: 'moved' });
    const runs = (await server.get('/training_runs?project_id=moved')).json;
    expect(runs).toMatchObject({ training_runs: [{ training_run_id: model }], cursor: { total_count: 1 } });
  });

  test('unknown sessions are 404, and unknown calls too', async () => {
    const server = await open();
    expect((await server.post('/session_heartbeat', { session_id: 'nope' })).status).toBe(404);
    const unknown = await server.get('/no_such_call');
    expect([unknown.status, unknown.json.detail]).toEqual([404, expect.stringContaining('no_such_call')]);
  });
});
