import type { FastifyBaseLogger } from 'fastify';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { FutureService } from './futures.ts';
import { engineMetrics } from './metrics-engine.ts';
import { OwnerMetrics } from './metrics-owners.ts';
import type { Monitor } from './monitor.ts';
import type { Recorder } from './recorder.ts';

export interface MetricsDeps {
  monitor: Monitor;
  recorder: Recorder;
  futures: FutureService;
  log: FastifyBaseLogger;
}

/** An answered HTTP request. */
export interface HttpRequestMeasure {
  method: string;
  /** The route's pattern, never an address: ids in labels would grow without bound. */
  route: string;
  status: number;
  seconds: number;
}

const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const WORK_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

/**
 * What Prometheus reads, in a registry of its own per application. Every label has a bounded set of values: routes,
 * methods, status codes, kinds of calls, and owners, whom the operator names.
 */
export class Metrics {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE;
  readonly #registry = new Registry();
  readonly #owners: OwnerMetrics;
  readonly #readEngine: () => Promise<void>;
  readonly #requests: Histogram<'method' | 'route' | 'status'>;

  constructor({ monitor, recorder, futures, log }: MetricsDeps) {
    const registers = [this.#registry];
    this.#owners = new OwnerMetrics(recorder);
    this.#readEngine = engineMetrics(this.#registry, monitor, log);
    this.#requests = new Histogram({
      name: 'anneal_http_request_duration_seconds',
      help: 'Time from the head of a request to the end of its answer; long polls wait on purpose',
      labelNames: ['method', 'route', 'status'],
      buckets: REQUEST_SECONDS,
      registers,
    });
    const steps = new Histogram({
      name: 'anneal_step_duration_seconds',
      help: 'Time of a training step, from its first forward-backward pass to the end of its optimizer step',
      buckets: WORK_SECONDS,
      registers,
    });
    recorder.onUsed(({ stepSeconds }) => {
      if (stepSeconds !== undefined) steps.observe(stepSeconds);
    });
    futureMetrics(this.#registry, futures);
  }

  /** Counts an answered request. */
  answered({ method, route, status, seconds }: HttpRequestMeasure): void {
    this.#requests.observe({ method, route, status }, seconds);
  }

  /** All values in Prometheus' text format, of owners only what `sees` allows. */
  async text(sees: (owner: string) => boolean): Promise<string> {
    await this.#readEngine();
    const registries = [this.#registry, this.#owners.registry(sees), processRegistry()];
    const texts = await Promise.all(registries.map((registry) => registry.metrics()));
    return `${texts.map((text) => text.trimEnd()).join('\n\n')}\n`;
  }
}

function futureMetrics(registry: Registry, futures: FutureService): void {
  const registers = [registry];
  new Gauge({
    name: 'anneal_futures_pending',
    help: 'Requests whose result is not there yet',
    registers,
    collect() {
      this.set(futures.pending);
    },
  });
  const ended = new Counter({
    name: 'anneal_futures_ended_total',
    help: 'Requests that ended, by kind and by whether they are done or failed',
    labelNames: ['kind', 'state'],
    registers,
  });
  const seconds = new Histogram({
    name: 'anneal_future_duration_seconds',
    help: 'Time from the submission of a request to its result, waiting included',
    labelNames: ['kind'],
    buckets: WORK_SECONDS,
    registers,
  });
  futures.onEnded(({ kind, state, submittedAt, endedAt }) => {
    ended.inc({ kind, state });
    seconds.observe({ kind }, (endedAt - submittedAt) / 1000);
  });
}

let ofProcess: Registry | undefined;

/** Measurements of the process: one registry, however many applications it holds, because its observers stay for good. */
function processRegistry(): Registry {
  if (!ofProcess) {
    ofProcess = new Registry();
    collectDefaultMetrics({ register: ofProcess });
  }
  return ofProcess;
}
