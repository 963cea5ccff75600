/** Usage events, sent to the server when the user asked for it. */
import { type Severity, type TelemetryEvent, TelemetryResponse, TelemetrySendRequest } from '@anneal/types';
import { SDK_VERSION } from '../version.ts';
import type { Backend } from './backend.ts';
import { every } from './sleep.ts';
import { postRequest } from './wire-request.ts';

const FLUSH_INTERVAL_MS = 10_000;
const TIMEOUT_MS = 5000;
const BATCH = 100;
/** Events beyond this are dropped: a server that does not take them must not fill the memory. */
const MAX_QUEUED = 10_000;

type EventFields<E = TelemetryEvent> = E extends TelemetryEvent
  ? Omit<E, 'event_id' | 'event_session_index' | 'timestamp' | 'severity'>
  : never;

function platform(): string {
  const scope = globalThis as { process?: { platform?: string }; navigator?: { platform?: string } };
  return scope.process?.platform ?? scope.navigator?.platform ?? 'unknown';
}

/** An ISO 8601 duration. */
function duration(ms: number): string {
  return `PT${(ms / 1000).toFixed(3)}S`;
}

/** The events of one session. */
export class Telemetry {
  readonly #backend: Backend;
  readonly #sessionId: string;
  readonly #processId = crypto.randomUUID();
  readonly #startedAt = Date.now();
  readonly #timer: { stop(): void };
  #queue: TelemetryEvent[] = [];
  #index = 0;

  constructor(backend: Backend, sessionId: string) {
    this.#backend = backend;
    this.#sessionId = sessionId;
    this.#add('INFO', { event: 'SESSION_START' });
    this.#timer = every(
      () => FLUSH_INTERVAL_MS,
      () => this.flush(),
    );
  }

  /** Records something that happened under one of few names. */
  log(eventName: string, data: Record<string, unknown> = {}, severity: Severity = 'INFO'): void {
    this.#add(severity, { event: 'GENERIC_EVENT', event_name: eventName, event_data: data });
  }

  /** Records an error that ends the program. */
  logException(error: unknown, severity: Severity = 'ERROR'): void {
    const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
    const fields = { error_type: name, error_message: message, traceback: stack };
    this.#add(severity, { event: 'UNHANDLED_EXCEPTION', ...fields });
  }

  /** Sends what is recorded. Events that cannot be sent are dropped. */
  async flush(): Promise<void> {
    while (this.#queue.length > 0) {
      const events = this.#queue.splice(0, BATCH);
      const call = postRequest(
        '/api/v1/telemetry',
        TelemetrySendRequest,
        {
          events,
          platform: platform(),
          sdk_version: SDK_VERSION,
          session_id: this.#sessionId,
          process_uuid: this.#processId,
        },
        { timeout: TIMEOUT_MS },
      );
      try {
        TelemetryResponse.parse(
          JSON.parse(new TextDecoder().decode((await this.#backend.http.sendOnce(call)).bytes)),
        );
      } catch (error) {
        this.#backend.options.logger.debug(`telemetry was not taken: ${error}`);
        return;
      }
    }
  }

  /** Records the end and sends the rest. */
  async close(): Promise<void> {
    this.#timer.stop();
    this.#add('INFO', { event: 'SESSION_END', duration: duration(Date.now() - this.#startedAt) });
    await this.flush();
  }

  #add(severity: Severity, fields: EventFields): void {
    if (this.#queue.length >= MAX_QUEUED) return;
    const event_id = crypto.randomUUID();
    const timestamp = new Date().toISOString();
    this.#queue.push({ ...fields, severity, event_id, timestamp, event_session_index: this.#index++ });
  }
}
