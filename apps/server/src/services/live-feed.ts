import { Readable } from 'node:stream';
import { metricsOf } from '../wire/console.ts';
import type { Monitor } from './monitor.ts';
import type { Recorder } from './recorder.ts';

/** A reader that is this far behind is let go; its browser connects again. */
const MAX_BUFFERED = 2 ** 20;

/** What happens, as server-sent events, for those who watch. */
export class LiveFeed {
  readonly #monitor: Monitor;
  readonly #recorder: Recorder;
  readonly #open = new Set<Readable>();

  constructor(monitor: Monitor, recorder: Recorder) {
    this.#monitor = monitor;
    this.#recorder = recorder;
  }

  /** A stream of the server's state and of what is recorded of this owner, until it is destroyed. */
  open(owner: string): Readable {
    const feed = new Readable({ read() {}, highWaterMark: MAX_BUFFERED });
    const send = (event: string, data: object): void => {
      if (feed.destroyed) return;
      if (!feed.push(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)) feed.destroy();
    };
    const stops = [
      this.#monitor.onReading((overview) => send('overview', overview)),
      this.#recorder.onRecorded((recorded) => {
        if (recorded.owner !== owner) return;
        if (recorded.type === 'rollouts') return send('rollouts', { session_id: recorded.sessionId });
        send('metrics', metricsOf(recorded.runId, recorded.steps));
      }),
    ];
    this.#open.add(feed);
    feed.once('close', () => {
      this.#open.delete(feed);
      for (const stop of stops) stop();
    });
    feed.push(': the feed begins\n\n');
    return feed;
  }

  /** Ends all streams, so that the server can stop. */
  close(): void {
    for (const feed of this.#open) feed.push(null);
  }
}
