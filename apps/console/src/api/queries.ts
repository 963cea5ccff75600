/** What pages read, each by its key in the cache. */
import { CheckpointsListResponse } from '@anneal/types';
import {
  ConsoleAccount,
  ConsoleHistory,
  ConsoleKeys,
  ConsoleMetrics,
  ConsoleOverview,
  ConsoleRolloutDetail,
  ConsoleRolloutSessions,
  ConsoleRollouts,
  ConsoleRunDetail,
  ConsoleRuns,
  ConsoleSessions,
  ConsoleUsage,
} from '@anneal/types/console';
import { queryOptions } from '@tanstack/react-query';
import type * as z from 'zod';
import { get } from './request.ts';

const API = '/console/api';

function query<T>(key: string[], path: string, schema: z.ZodType<T>, everyMs?: number) {
  return queryOptions({
    queryKey: key,
    queryFn: ({ signal }) => get(path, schema, signal),
    ...(everyMs === undefined ? {} : { refetchInterval: everyMs }),
  });
}

const of = (id: string): string => encodeURIComponent(id);

export const accountQuery = query(['account'], `${API}/account`, ConsoleAccount);
/** Kept up to date by the live stream. */
export const overviewQuery = query(['overview'], `${API}/overview`, ConsoleOverview);
export const historyQuery = query(['history'], `${API}/history`, ConsoleHistory);
export const sessionsQuery = query(['sessions'], `${API}/sessions`, ConsoleSessions, 10_000);
export const runsQuery = query(['runs'], `${API}/runs?limit=100`, ConsoleRuns, 15_000);
export const keysQuery = query(['keys'], `${API}/keys`, ConsoleKeys);
export const usageQuery = query(['usage'], `${API}/usage?days=30`, ConsoleUsage, 30_000);
export const rolloutSessionsQuery = query(
  ['rollout-sessions'],
  `${API}/rollouts`,
  ConsoleRolloutSessions,
  15_000,
);
export const checkpointsQuery = query(
  ['checkpoints'],
  '/api/v1/checkpoints?limit=500',
  CheckpointsListResponse,
);

export const runQuery = (id: string) => query(['run', id], `${API}/runs/${of(id)}`, ConsoleRunDetail, 15_000);
/** Kept up to date by the live stream. */
export const metricsQuery = (id: string) =>
  query(['metrics', id], `${API}/runs/${of(id)}/metrics`, ConsoleMetrics);
export const rolloutsQuery = (session: string) =>
  query(['rollouts', session], `${API}/sessions/${of(session)}/rollouts?limit=100`, ConsoleRollouts);
export const rolloutQuery = (id: string) =>
  query(['rollout', id], `${API}/rollouts/${of(id)}`, ConsoleRolloutDetail);
