import * as z from 'zod';

const count = (fallback: number) => z.coerce.number().int().min(0).default(fallback);

/** Whose entries a list shows. */
export const AccessScope = z.enum(['owned', 'accessible']).meta({ id: 'AccessScope' });

export type AccessScope = z.infer<typeof AccessScope>;

/** Query of `GET /training_runs`. */
export const ListTrainingRunsQuery = z.strictObject({
  limit: count(20),
  offset: count(0),
  access_scope: AccessScope.default('owned'),
  project_id: z.string().optional(),
});

export type ListTrainingRunsQuery = z.infer<typeof ListTrainingRunsQuery>;

/** Query of `GET /checkpoints`. */
export const ListCheckpointsQuery = z.strictObject({ limit: count(100), offset: count(0) });

export type ListCheckpointsQuery = z.infer<typeof ListCheckpointsQuery>;

/** Query of `GET /sessions`. */
export const ListSessionsQuery = z.strictObject({
  limit: count(20),
  offset: count(0),
  access_scope: AccessScope.default('owned'),
});

export type ListSessionsQuery = z.infer<typeof ListSessionsQuery>;

/** Query of `GET /training_runs/{id}` and `GET /sessions/{id}`. */
export const AccessScopeQuery = z.strictObject({ access_scope: AccessScope.default('owned') });

export type AccessScopeQuery = z.infer<typeof AccessScopeQuery>;
