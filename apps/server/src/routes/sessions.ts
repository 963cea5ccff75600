import {
  CreateSessionRequest,
  CreateSessionResponse,
  FinishSessionRequest,
  GetSessionResponse,
  ListSessionsQuery,
  ListSessionsResponse,
  MoveSessionRequest,
  SessionHeartbeatRequest,
  SessionHeartbeatResponse,
  SessionSearchRequest,
  SessionSearchResponse,
} from '@anneal/types';
import * as z from 'zod';
import { pageSize } from '../services/runs.ts';
import { texts, toSessionSummary } from '../wire/listings.ts';
import { answers, body, type Routes } from './route.ts';

const params = z.object({ session_id: z.string() });
const tags = ['sessions'];

export const sessionRoutes: Routes = async (app, { services: { sessions, training, samplers } }) => {
  app.post(
    '/create_session',
    { schema: { tags, body: body(CreateSessionRequest), response: answers(CreateSessionResponse) } },
    async (request) => {
      const session = await sessions.create(request.owner, request.body);
      return { type: 'create_session' as const, session_id: session.id };
    },
  );

  app.post(
    '/session_heartbeat',
    { schema: { tags, body: body(SessionHeartbeatRequest), response: answers(SessionHeartbeatResponse) } },
    async (request) => {
      await sessions.heartbeat(request.body.session_id, request.owner);
      return { type: 'session_heartbeat' as const };
    },
  );

  app.post(
    '/sessions/:session_id/finish',
    { schema: { tags, params, body: body(FinishSessionRequest) } },
    async (request, reply) => {
      const { reason, detail } = request.body;
      await sessions.finish(request.params.session_id, request.owner, reason.type, detail ?? null);
      return reply.code(204).send();
    },
  );

  app.get(
    '/sessions',
    { schema: { tags, querystring: body(ListSessionsQuery), response: answers(ListSessionsResponse) } },
    async ({ owner, query }) => ({
      sessions: await sessions.list(owner, pageSize(query.limit), query.offset),
    }),
  );

  app.get(
    '/sessions/:session_id',
    { schema: { tags, params, response: answers(GetSessionResponse) } },
    async (request) => {
      const session = await sessions.get(request.params.session_id, request.owner);
      return {
        training_run_ids: await training.idsOfSession(session.id),
        sampler_ids: await samplers.idsOfSession(session.id),
        user_metadata: texts(session.userMetadata),
        display_name: session.displayName,
      };
    },
  );

  app.post(
    '/sessions/search',
    { schema: { tags, body: body(SessionSearchRequest), response: answers(SessionSearchResponse) } },
    async (request) => {
      const { sessions: found, more } = await sessions.search(request.owner, request.body);
      const summaries = await Promise.all(
        found.map(async (session) => toSessionSummary(session, await sessions.storedBy(session.id))),
      );
      const last = summaries.at(-1);
      const next =
        more && last ? { last_created_at: last.created_at, last_session_id: last.session_id } : null;
      return { sessions: summaries, next_cursor: next };
    },
  );

  app.put(
    '/sessions/:session_id/project',
    { schema: { tags, params, body: body(MoveSessionRequest) } },
    async (request, reply) => {
      await sessions.setProject(request.params.session_id, request.owner, request.body.project_id);
      return reply.code(204).send();
    },
  );
};
