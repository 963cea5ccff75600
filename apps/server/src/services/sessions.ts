import { randomUUID } from 'node:crypto';
import type { FinishReason, Session, Store } from '@anneal/store';
import type { CreateSessionRequest, SessionSearchRequest, SessionStatus } from '@anneal/types';
import { ApiError } from '../errors.ts';

const SEARCH_PAGE = 200;

/** Sessions: one client's work, with the models and samplers that it made. */
export class SessionService {
  readonly #store: Store;
  readonly #endListeners: ((sessionId: string) => void)[] = [];

  constructor(store: Store) {
    this.#store = store;
  }

  /** Called when a session ends; new work in it is refused from then on. */
  onEnd(listener: (sessionId: string) => void): void {
    this.#endListeners.push(listener);
  }

  async create(owner: string, request: CreateSessionRequest): Promise<Session> {
    const now = Date.now();
    const session: Session = {
      id: randomUUID(),
      owner,
      projectId: request.project_id ?? null,
      displayName: request.display_name ?? null,
      tags: request.tags,
      userMetadata: request.user_metadata ?? {},
      sdkVersion: request.sdk_version,
      createdAt: now,
      lastHeartbeatAt: now,
      finishedAt: null,
      finishReason: null,
      finishDetail: null,
    };
    await this.#store.sessions.create(session);
    return session;
  }

  /** @throws ApiError `not_found` when there is none of this owner. */
  async get(id: string, owner: string): Promise<Session> {
    const session = await this.#store.sessions.get(id);
    if (!session || session.owner !== owner) {
      throw new ApiError('not_found', `session_id "${id}" is unknown`);
    }
    return session;
  }

  /** @throws ApiError `session_ended` when it takes no new work, `not_found` when there is none. */
  async getOpen(id: string, owner: string): Promise<Session> {
    const session = await this.get(id, owner);
    if (session.finishedAt !== null) {
      throw new ApiError('session_ended', `session_id "${id}" has ended: create a new session`);
    }
    return session;
  }

  /** @throws ApiError `gone` when the session has ended: the client stops then. */
  async heartbeat(id: string, owner: string): Promise<void> {
    const session = await this.get(id, owner);
    if (session.finishedAt !== null) throw new ApiError('gone', `session_id "${id}" has ended`);
    await this.#store.sessions.heartbeat(id, Date.now());
  }

  async finish(id: string, owner: string, reason: FinishReason, detail: string | null): Promise<void> {
    const session = await this.get(id, owner);
    if (session.finishedAt !== null) return;
    await this.#store.sessions.finish(id, reason, detail, Date.now());
    for (const listener of this.#endListeners) listener(id);
  }

  async list(owner: string, limit: number, offset: number): Promise<string[]> {
    return (await this.#store.sessions.list(owner, limit, offset)).map((session) => session.id);
  }

  async setProject(id: string, owner: string, projectId: string): Promise<void> {
    await this.get(id, owner);
    await this.#store.sessions.setProject(id, projectId);
  }

  /** Newest first, at most `limit`; `more` tells whether another page may follow. */
  async search(
    owner: string,
    request: SessionSearchRequest,
  ): Promise<{ sessions: Session[]; more: boolean }> {
    if (request.owner.type !== 'own') {
      throw new ApiError('invalid_request', `owner.type "${request.owner.type}": only "own" can be searched`);
    }
    const found: Session[] = [];
    let position = request.cursor
      ? { createdAt: Date.parse(request.cursor.last_created_at), id: request.cursor.last_session_id }
      : undefined;
    for (;;) {
      const page = await this.#store.sessions.after(owner, position, SEARCH_PAGE);
      for (const session of page) {
        if (!matches(session, request)) continue;
        if (found.length === request.limit) return { sessions: found, more: true };
        found.push(session);
      }
      position = page.at(-1);
      if (page.length < SEARCH_PAGE) return { sessions: found, more: false };
    }
  }

  storedBy(id: string): Promise<{ count: number; bytes: number }> {
    return this.#store.sessions.storedBy(id);
  }
}

/** How a session ended, or that it runs. */
export function statusOf(session: Session): SessionStatus {
  if (session.finishedAt === null) return { type: 'active' };
  const type = session.finishReason as FinishReason;
  return { type: 'client_finished', reason: { type }, detail: session.finishDetail };
}

function matches(session: Session, request: SessionSearchRequest): boolean {
  const { session_id: id, display_name: name, project_ids: projects, statuses } = request;
  const named = [
    ...(id ? [session.id === id] : []),
    ...(name ? [hasWords(session.displayName ?? '', name)] : []),
  ];
  if (named.length > 0 && !named.includes(true)) return false;
  if (projects && !projects.includes(session.projectId ?? '')) return false;
  const metadata = Object.entries(request.user_metadata);
  if (metadata.some(([key, value]) => session.userMetadata[key] !== value)) return false;
  const status = statusOf(session);
  return !statuses || statuses.some((wanted) => isStatus(status, wanted));
}

function hasWords(text: string, words: string): boolean {
  const lower = text.toLowerCase();
  return words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => lower.includes(word));
}

function isStatus(
  status: SessionStatus,
  wanted: NonNullable<SessionSearchRequest['statuses']>[number],
): boolean {
  if (status.type !== wanted.type) return false;
  if (status.type !== 'client_finished' || wanted.type !== 'client_finished') return true;
  return !wanted.reasons || wanted.reasons.includes(status.reason.type);
}
