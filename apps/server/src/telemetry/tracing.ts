/**
 * Spans of HTTP requests, of the work that they ask for, and of its time in the engine. Attributes hold routes, ids and
 * counts; never a prompt, a text, a key, or an error's message, which may repeat one.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import {
  type Attributes,
  type Context,
  DiagLogLevel,
  defaultTextMapGetter,
  diag,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Ended, FutureService } from '../services/futures.ts';
import type { Generated } from '../services/openai-generation.ts';

export class Tracing {
  readonly #tracer: Tracer;
  readonly #close: () => Promise<void>;
  readonly #propagator = new W3CTraceContextPropagator();
  readonly #contexts = new AsyncLocalStorage<Context>();
  readonly #requests = new WeakMap<FastifyRequest, Context>();

  constructor(tracer: Tracer, close: () => Promise<void>) {
    this.#tracer = tracer;
    this.#close = close;
  }

  /** The trace of the request that is being handled. */
  get current(): Context | undefined {
    return this.#contexts.getStore();
  }

  /** Makes a span of each request, as a part of the trace that its `traceparent` names. */
  addTo(http: FastifyInstance): void {
    const warn = (message: string) =>
      http.log.warn({ problem: reasonOf(message) }, 'traces could not be sent');
    const quiet = (): void => {};
    diag.setLogger(
      { error: warn, warn: quiet, info: quiet, debug: quiet, verbose: quiet },
      { logLevel: DiagLogLevel.ERROR, suppressOverrideMessage: true },
    );
    http.addHook('onRequest', (request, _reply, done) => this.#contexts.run(this.#begin(request), done));
    // A body that was read in between has lost the context.
    http.addHook('preValidation', (request, _reply, done) =>
      this.#contexts.run(this.#requests.get(request) ?? ROOT_CONTEXT, done),
    );
    http.addHook('onResponse', async (request, { statusCode }) => {
      const span = trace.getSpan(this.#requests.get(request) ?? ROOT_CONTEXT);
      span?.setAttribute('http.response.status_code', statusCode);
      if (statusCode >= 500) span?.setStatus({ code: SpanStatusCode.ERROR });
      span?.end();
    });
  }

  /** Makes spans of requests whose results are fetched later: the whole, its waiting, and its time in the engine. */
  follow(futures: FutureService): void {
    futures.onEnded((ended) => this.#future(ended));
  }

  /** Makes a span of texts that were generated for a waiting caller. */
  generated({ model, startedAt, endedAt, promptTokens, completionTokens, failed }: Generated): void {
    const attributes = {
      'gen_ai.operation.name': 'text_completion',
      'gen_ai.request.model': model,
      'gen_ai.usage.input_tokens': promptTokens,
      'gen_ai.usage.output_tokens': completionTokens,
    };
    this.#span('sample', { from: startedAt, to: endedAt, failed, attributes }, this.current);
  }

  /** Sends what is left. */
  close(): Promise<void> {
    return this.#close();
  }

  #begin(request: FastifyRequest): Context {
    const parent = this.#propagator.extract(ROOT_CONTEXT, request.headers, defaultTextMapGetter);
    const { method, id, routeOptions } = request;
    const { url: route } = routeOptions;
    const attributes: Attributes = { 'http.request.method': method, 'anneal.http_request_id': id };
    if (route !== undefined) attributes['http.route'] = route;
    const name = route === undefined ? method : `${method} ${route}`;
    const span = this.#tracer.startSpan(name, { kind: SpanKind.SERVER, attributes }, parent);
    const context = trace.setSpan(parent, span);
    this.#requests.set(request, context);
    return context;
  }

  #future({ requestId, kind, modelId, samplerId, state, detail, ...times }: Ended): void {
    const { submittedAt, startedAt, endedAt } = times;
    const failed = state === 'failed';
    const attributes: Attributes = {
      'anneal.request_id': requestId,
      'anneal.kind': kind,
      ...given('anneal.model_id', modelId),
      ...given('anneal.sampler_id', samplerId),
      ...given('anneal.tokens', detail?.tokens),
      ...given('anneal.sequences', detail?.sequences),
      ...given('anneal.loss_fn', detail?.lossFn),
    };
    const whole = { from: submittedAt, to: endedAt, failed, attributes };
    const context = this.#span(`future ${kind}`, whole, times.trace);
    this.#span('queued', { from: submittedAt, to: startedAt ?? endedAt }, context);
    if (startedAt !== undefined)
      this.#span(`engine ${kind}`, { from: startedAt, to: endedAt, failed }, context);
  }

  /** A span that is over; its context, for spans in it. */
  #span(
    name: string,
    { from, to, failed, attributes }: { from: number; to: number; failed?: boolean; attributes?: Attributes },
    parent: Context = ROOT_CONTEXT,
  ): Context {
    const options = { startTime: from, ...(attributes ? { attributes } : {}) };
    const span = this.#tracer.startSpan(name, options, parent);
    if (failed) span.setStatus({ code: SpanStatusCode.ERROR });
    span.end(to);
    return trace.setSpan(parent, span);
  }
}

/** The exporter tells of an error as JSON, its stack included. */
function reasonOf(message: string): string {
  try {
    const { message: reason } = z.object({ message: z.string() }).parse(JSON.parse(message));
    return reason;
  } catch {
    return message;
  }
}

function given(name: string, value: string | number | null | undefined): Attributes {
  return value === null || value === undefined ? {} : { [name]: value };
}
