import { AuditLogResponse, BillingUsageResponse, CurrentCheckpointStorageUsageResponse } from '@anneal/types';
import type { APIFuture } from './core/api-future.ts';
import type { ClientOptions } from './core/options.ts';
import { LazyBackend } from './internal/backend.ts';
import { RestCaller } from './internal/rest-caller.ts';
import type { CallOptions } from './training-client.ts';

/** What the audit log is about. */
export type AuditEventType = 'all' | 'checkpoints' | 'projects' | 'teams' | 'organizations';

/** The organization's log and bills, on servers that keep them. For administrators. */
export class AdminClient {
  readonly #rest: RestCaller;

  constructor(options: ClientOptions | LazyBackend = {}) {
    this.#rest = new RestCaller(options instanceof LazyBackend ? options : new LazyBackend(options));
  }

  /** What happened on a day (`YYYY-MM-DD`, default today). */
  getAuditLog(
    options: CallOptions & { eventType?: AuditEventType; day?: string } = {},
  ): APIFuture<AuditLogResponse> {
    const query = { event_type: options.eventType ?? 'all', day: options.day };
    return this.#rest.get('/audit', AuditLogResponse, options, query);
  }

  /** Use by the hour between two full hours. */
  getBillingUsage(
    startingOn: Date | string,
    endingBefore: Date | string,
    options: CallOptions = {},
  ): APIFuture<BillingUsageResponse> {
    const query = { starting_on: iso(startingOn), ending_before: iso(endingBefore) };
    return this.#rest.get('/billing/usage/events', BillingUsageResponse, options, query);
  }

  /** Bytes that checkpoints take now. */
  getCurrentCheckpointStorageUsage(
    options: CallOptions & { projectId?: string } = {},
  ): APIFuture<CurrentCheckpointStorageUsageResponse> {
    const query = { project_id: options.projectId };
    const path = '/billing/usage/checkpoints/current';
    return this.#rest.get(path, CurrentCheckpointStorageUsageResponse, options, query);
  }
}

function iso(moment: Date | string): string {
  return typeof moment === 'string' ? moment : moment.toISOString();
}
