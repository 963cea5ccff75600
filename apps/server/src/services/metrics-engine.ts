import type { ConsoleOverview } from '@anneal/types/console';
import type { FastifyBaseLogger } from 'fastify';
import { Counter, Gauge, type Registry } from 'prom-client';
import type { Monitor } from './monitor.ts';

interface Reading {
  name: string;
  help: string;
  value: (overview: ConsoleOverview) => number;
}

const GAUGES: Reading[] = [
  {
    name: 'anneal_training_calls_queued',
    help: 'Training calls that wait for the device',
    value: ({ queue }) => queue.training_calls,
  },
  {
    name: 'anneal_sequences_waiting',
    help: 'Sequences that wait for a place among those that are sampled',
    value: ({ queue }) => queue.waiting_sequences,
  },
  {
    name: 'anneal_sequences_active',
    help: 'Sequences that are sampled now',
    value: ({ queue }) => queue.active_sequences,
  },
  {
    name: 'anneal_base_models_loaded',
    help: 'Served names of base models whose weights are in memory',
    value: ({ base_models }) => base_models.filter(({ state }) => state === 'loaded').length,
  },
  {
    name: 'anneal_base_weight_bytes',
    help: 'Memory of the base weights that are loaded',
    value: ({ base_weight_bytes }) => base_weight_bytes,
  },
  {
    name: 'anneal_models_loaded',
    help: 'Models in training that are in memory',
    value: ({ models_in_memory }) => models_in_memory,
  },
  {
    name: 'anneal_samplers_open',
    help: 'Samplers that are in memory',
    value: ({ samplers_in_memory }) => samplers_in_memory,
  },
  {
    name: 'anneal_kv_cache_bytes',
    help: 'Memory of the keys and values of running sequences, room for their growth included',
    value: ({ kv_cache }) => kv_cache.bytes,
  },
  {
    name: 'anneal_kv_cache_limit_bytes',
    help: 'The most that running sequences may take; those beyond wait',
    value: ({ kv_cache }) => kv_cache.limit_bytes,
  },
  {
    name: 'anneal_kv_cache_tokens',
    help: 'Tokens of running sequences whose keys and values are kept',
    value: ({ kv_cache }) => kv_cache.tokens,
  },
  {
    name: 'anneal_prefix_cache_bytes',
    help: 'Memory of the keys and values of earlier prompts and conversations, kept for those that begin alike',
    value: ({ kv_cache }) => kv_cache.prefix_bytes,
  },
  {
    name: 'anneal_prefix_cache_limit_bytes',
    help: 'The most that earlier prompts and conversations may take; the longest unused go',
    value: ({ kv_cache }) => kv_cache.prefix_limit_bytes,
  },
  {
    name: 'anneal_memory_bytes',
    help: 'Memory of the process, keys and values of the sampled sequences included; not that of a GPU',
    value: ({ device }) => device.memory_bytes,
  },
  {
    name: 'anneal_machine_memory_bytes',
    help: 'Memory of the machine',
    value: ({ device }) => device.total_memory_bytes,
  },
  {
    name: 'anneal_engine_read_timestamp_seconds',
    help: 'When the engine last told its state: far in the past, it is stuck',
    value: ({ at }) => at / 1000,
  },
];

const COUNTERS: Reading[] = [
  {
    name: 'anneal_base_model_loads_total',
    help: 'How many times base weights were loaded',
    value: ({ base_loads }) => base_loads,
  },
  {
    name: 'anneal_base_model_unloads_total',
    help: 'How many times base weights were unloaded to make room',
    value: ({ base_unloads }) => base_unloads,
  },
  {
    name: 'anneal_trained_tokens_total',
    help: 'Tokens that went through forward-backward passes',
    value: ({ trained_tokens }) => trained_tokens,
  },
  {
    name: 'anneal_sampled_tokens_total',
    help: 'Tokens that were sampled',
    value: ({ sampled_tokens }) => sampled_tokens,
  },
];

/**
 * The engine's state as the monitor knows it: the engine is asked only where nobody looks regularly.
 *
 * @returns Brings the values up to date, to be called before they are read.
 */
export function engineMetrics(
  registry: Registry,
  monitor: Monitor,
  log: FastifyBaseLogger,
): () => Promise<void> {
  const registers = [registry];
  const gauges = GAUGES.map(({ name, help, value }) => ({
    value,
    gauge: new Gauge({ name, help, registers }),
  }));
  const counters = COUNTERS.map(({ name, help, value }) => ({
    value,
    counter: new Counter({ name, help, registers }),
  }));
  const up = new Gauge({ name: 'anneal_engine_up', help: 'Whether the engine tells its state', registers });
  return async () => {
    try {
      const overview = await monitor.overview();
      for (const { gauge, value } of gauges) gauge.set(value(overview));
      for (const { counter, value } of counters) {
        counter.reset();
        counter.inc(value(overview));
      }
      up.set(1);
    } catch (error) {
      log.debug({ err: error }, 'the engine did not tell its state');
      up.set(0);
    }
  };
}
