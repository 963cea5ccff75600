import { expect, test } from 'vitest';
import * as z from 'zod';
import {
  CreateModelRequest,
  LoraConfig,
  OptimStepRequest,
  SampleRequest,
  unknownFields,
  wire,
} from './index.ts';

const request = {
  session_id: 's',
  model_seq_id: 0,
  base_model: 'm',
  lora_config: { rank: 8, newer: 1 },
  newest: true,
};

test('a strict schema refuses what a newer client adds, its wire form drops it at every depth', () => {
  expect(() => CreateModelRequest.parse(request)).toThrow(/newest/);
  const parsed = wire(CreateModelRequest).parse(request);
  expect(parsed).not.toHaveProperty('newest');
  expect(parsed.lora_config).toEqual({ rank: 8, train_attn: true, train_mlp: true, train_unembed: true });
});

test('unknown fields are listed with their paths', () => {
  expect(unknownFields(CreateModelRequest, request).sort()).toEqual(['lora_config.newer', 'newest']);
  const chunk = { type: 'encoded_text', tokens: [1], extra: 0 };
  const sample = { prompt: { chunks: [chunk] }, sampling_params: {}, base_model: 'm' };
  expect(unknownFields(SampleRequest, sample)).toEqual(['prompt.chunks.0.extra']);
});

test('the wire form keeps the checks', () => {
  const bad = wire(LoraConfig).safeParse({ rank: 0 });
  expect(bad.error?.issues[0]).toMatchObject({
    path: ['rank'],
    message: expect.stringContaining('positive integer'),
  });
  expect(
    wire(LoraConfig).safeParse({ train_attn: false, train_mlp: false, train_unembed: false }).success,
  ).toBe(false);
  expect(wire(OptimStepRequest).safeParse({ model_id: 'm' }).success).toBe(false);
});

test('the wire form is made once, and nested schemas are shared', () => {
  expect(wire(CreateModelRequest)).toBe(wire(CreateModelRequest));
  expect(wire(CreateModelRequest)).not.toBe(CreateModelRequest);
});

test('large counters and seeds keep every digit', () => {
  const seq = 999_999_999_999_999_999n;
  const seed = 2n ** 64n - 1n;
  const sample = { prompt: { chunks: [] }, sampling_params: { seed }, sampling_session_id: 's', seq_id: seq };
  const parsed = wire(SampleRequest).parse(sample);
  expect([parsed.seq_id, parsed.sampling_params.seed]).toEqual([seq, seed]);
  expect(wire(SampleRequest).parse({ ...sample, seq_id: 7 }).seq_id).toBe(7n);
  const rounded = wire(SampleRequest).safeParse({ ...sample, seq_id: Number(seq) });
  expect(z.prettifyError(rounded.error!)).toContain('lost digits');
});
