import { expect, test } from 'vitest';
import { onEachDatabase } from './harness.ts';

interface Event {
  ph: string;
  name: string;
  pid: number;
  id?: string;
  ts?: number;
  args?: Record<string, unknown>;
}

onEachDatabase((open) => {
  test('what checkpoints take is told by project, to their owner only', async () => {
    const server = await open();
    const project = (await server.post('/create_session', { sdk_version: '0.38.0', project_id: 'research' }))
      .json.session_id;
    const first = await server.model({ session: String(project) });
    const second = await server.model();
    await server.saveState(first, 1, 'a');
    await server.saveState(first, 2, 'b');
    await server.saveState(second, 1, 'c');
    const storage = async (query = '', key = server.key) => {
      const answer = await server.get(`/billing/usage/checkpoints/current${query}`, { key });
      return answer.json.data as Record<string, unknown>[];
    };
    const listed = (await server.get('/checkpoints')).json.checkpoints as { size_bytes: number }[];
    const bytes = listed.reduce((sum, { size_bytes: size }) => sum + size, 0);
    const all = await storage();
    expect(all.map((row) => [row.project_id ?? null, row.checkpoint_count])).toEqual([
      ['research', 2],
      [null, 1],
    ]);
    expect(all.reduce((sum, row) => sum + Number(row.size_bytes), 0)).toBe(bytes);
    expect(await storage('?project_id=research')).toEqual([all[0]]);
    expect(await storage('', server.otherKey)).toEqual([]);
  });

  test('the requests of a session come as a trace, through a link that needs no key', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session });
    const sampler = await server.sampler({ session });
    await server.result(await server.forwardBackward(model, 1));
    await server.result(await server.optimStep(model, 2));
    await server.result(await server.sample(sampler, 0));
    const { json } = await server.get(`/sessions/${session}/trace_export`);
    expect(json.status).toBe('ready');
    const link = new URL(String(json.url));
    const answer = await server.app.http.inject({ url: link.pathname + link.search });
    const { traceEvents } = answer.json() as { traceEvents: Event[] };
    const tracks = new Map(
      traceEvents.filter(({ ph }) => ph === 'M').map(({ pid, args }) => [pid, args?.name]),
    );
    const begun = traceEvents.filter(({ ph }) => ph === 'b');
    const kinds = begun.map(({ name, pid }) => `${tracks.get(pid) === model ? 'model' : 'sampler'} ${name}`);
    expect(kinds.sort()).toEqual([
      'model create_model',
      'model forward_backward',
      'model optim_step',
      'sampler sample',
    ]);
    for (const { id, ts } of begun) {
      const end = traceEvents.find((event) => event.ph === 'e' && event.id === id);
      expect(end?.ts).toBeGreaterThanOrEqual(ts!);
    }
    expect((await server.app.http.inject({ url: link.pathname })).statusCode).toBe(404);
    const foreign = await server.get(`/sessions/${session}/trace_export`, { key: server.otherKey });
    expect(foreign.status).toBe(404);
  });
});
