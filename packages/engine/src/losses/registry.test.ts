import { expect, test } from 'vitest';
import { EngineError } from '../engine.ts';
import { findLoss, lossNames, registerLoss } from './registry.ts';

test('the losses of the SDK are there, and dpo', () => {
  const sdk = ['cross_entropy', 'importance_sampling', 'ppo', 'cispo', 'dro', 'gspo'];
  expect(lossNames()).toEqual(expect.arrayContaining([...sdk, 'dpo']));
});

test('stable_reinforce is refused with the losses to use instead and how to ask for them', () => {
  expect(() => findLoss('stable_reinforce')).toThrow(EngineError);
  expect(() => findLoss('stable_reinforce')).toThrow(
    /Use importance_sampling, ppo or cispo;.*loss_fn=importance_sampling/,
  );
});

test('custom is refused with the ways to bring a loss', () => {
  expect(() => findLoss('custom')).toThrow(/forward_backward_custom.*--loss/);
});

test('an unknown loss is refused with the known ones', () => {
  expect(() => findLoss('ppoo')).toThrow(/loss_fn "ppoo" is unknown.*cross_entropy.*dpo/);
});

test('a taken name is refused', () => {
  expect(() => registerLoss(findLoss('ppo'))).toThrow(/"ppo": that name is taken/);
  expect(() => registerLoss({ ...findLoss('ppo'), name: 'custom' })).toThrow(/that name is taken/);
});
