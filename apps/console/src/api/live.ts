import {
  type ConsoleHistory,
  type ConsoleMetrics,
  type ConsoleRuns,
  consoleEvents,
} from '@anneal/types/console';
import type { QueryClient } from '@tanstack/react-query';
import { EventSourceParserStream } from 'eventsource-parser/stream';
import { useEffect, useState } from 'react';
import { appendMetrics } from '../lib/metrics.ts';
import { send } from './request.ts';

const RETRY_MS = 2000;
const HISTORY = 450;

/** Keeps the cache up to date from the server's event stream, and connects again after a break. True while connected. */
export function useLive(client: QueryClient): boolean {
  const [isLive, setLive] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    void listen(client, stop.signal, setLive);
    return () => stop.abort();
  }, [client]);
  return isLive;
}

async function listen(
  client: QueryClient,
  signal: AbortSignal,
  setLive: (on: boolean) => void,
): Promise<void> {
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    try {
      const answer = await send('/console/api/events', { signal });
      setLive(true);
      // What happened while nobody listened is asked for.
      if (!isFirst) void client.invalidateQueries();
      const events = answer
        .body!.pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream());
      for (const reader = events.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        take(client, value.event ?? '', value.data);
      }
    } catch {
      // Queries show what is wrong; here it is only tried again.
    }
    if (signal.aborted) return;
    setLive(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function take(client: QueryClient, event: string, data: string): void {
  if (event === 'overview') {
    const overview = consoleEvents.overview.parse(JSON.parse(data));
    client.setQueryData(['overview'], overview);
    client.setQueryData<ConsoleHistory>(['history'], (known) => known && extend(known, overview));
  } else if (event === 'metrics') {
    takeMetrics(client, consoleEvents.metrics.parse(JSON.parse(data)));
  } else if (event === 'rollouts') {
    const { session_id: session } = consoleEvents.rollouts.parse(JSON.parse(data));
    void client.invalidateQueries({ queryKey: ['rollouts', session] });
    void client.invalidateQueries({ queryKey: ['rollout-sessions'] });
  }
}

function takeMetrics(client: QueryClient, more: ConsoleMetrics): void {
  client.setQueryData<ConsoleMetrics>(
    ['metrics', more.run_id],
    (known) => known && appendMetrics(known, more),
  );
  const runs = client.getQueryData<ConsoleRuns>(['runs']);
  if (!runs?.runs.some((run) => run.run_id === more.run_id)) {
    void client.invalidateQueries({ queryKey: ['runs'] });
    return;
  }
  const last = more.steps.length - 1;
  const latest = Object.fromEntries(
    Object.entries(more.series).flatMap(([key, values]) => {
      const value = values[last];
      return value === null || value === undefined ? [] : [[key, value]];
    }),
  );
  const change = { step: more.steps[last] ?? null, latest, last_request_at: more.at[last] ?? 0 };
  client.setQueryData<ConsoleRuns>(['runs'], {
    ...runs,
    runs: runs.runs.map((run) =>
      run.run_id === more.run_id ? { ...run, ...change, state: 'training' } : run,
    ),
  });
}

function extend(
  known: ConsoleHistory,
  overview: ReturnType<typeof consoleEvents.overview.parse>,
): ConsoleHistory {
  if (overview.at <= (known.at.at(-1) ?? 0)) return known;
  const add = (values: number[], value: number): number[] => [...values, value].slice(-HISTORY);
  return {
    at: add(known.at, overview.at),
    trained_tokens_per_second: add(known.trained_tokens_per_second, overview.trained_tokens_per_second),
    sampled_tokens_per_second: add(known.sampled_tokens_per_second, overview.sampled_tokens_per_second),
    memory_bytes: add(known.memory_bytes, overview.device.memory_bytes),
  };
}
