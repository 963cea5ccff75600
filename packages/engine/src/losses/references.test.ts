/** Values and gradients against float64 references made with torch: packages/engine/fixtures/tables. */
import { openSafetensors } from '@anneal/safetensors';
import { expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { fixturePath, readJson } from '../testing/fixtures.ts';
import { findLoss } from './registry.ts';
import { evaluate, type LossCase, type Numbers } from './testing.ts';

interface Table {
  lengths: number[];
  cases: {
    loss_fn: string;
    config: Record<string, number>;
    key: string;
    loss: number;
    masked_loss: number;
  }[];
  dpo: {
    key: string;
    beta: number;
    chosen_lengths: number[];
    rejected_lengths: number[];
    loss: number;
    accuracy: number;
    margins: number[];
  }[];
}

interface MoreTable {
  cases: {
    loss_fn: string;
    loss_fn_config: Record<string, number | string>;
    loss: number;
    data: ({ logprobs_current: Numbers; grad: Numbers } & Record<string, Numbers>)[];
  }[];
}

const table = readJson<Table>(fixturePath('tables', 'losses.json'));
const tensors = openSafetensors(fixturePath('tables', 'losses.safetensors'));
const more = readJson<MoreTable>(fixturePath('tables', 'losses_more.json'));

const column = (name: string) => Array.from(tensors.readFloat32Sync(name));

function split(values: number[], lengths: number[]): number[][] {
  const rest = [...values];
  return lengths.map((length) => rest.splice(0, length));
}

function expectClose(got: number[], want: number[]): void {
  const scale = Math.max(...want.map(Math.abs));
  expect(got).toHaveLength(want.length);
  const worst = Math.max(...got.map((value, i) => Math.abs(value - want[i]!)));
  expect(worst / scale).toBeLessThan(1e-5);
}

test.each(table.cases)('$key', ({ loss_fn, config, key, loss, masked_loss }) => {
  const rows = (name: string) => split(column(name), table.lengths);
  const [logprobs, sampling, advantages, mask] = ['new_logprobs', 'old_logprobs', 'advantages', 'mask'].map(
    rows,
  );
  const cases = logprobs!.map(
    (lp, i): LossCase => ({ logprobs: lp, inputs: { logprobs: sampling![i]!, advantages: advantages![i]! } }),
  );
  const plain = evaluate(findLoss(loss_fn), config, cases);
  expectClose([plain.loss], [loss]);
  expectClose(plain.gradients.flat(), column(`${key}.grad`));

  const masked = cases.map(({ inputs, ...rest }, i) => ({
    ...rest,
    inputs: { ...inputs, weights: mask![i]! },
  }));
  const some = evaluate(findLoss(loss_fn), config, masked);
  expectClose([some.loss], [masked_loss]);
  expectClose(some.gradients.flat(), column(`${key}.masked_grad`));
});

test.each(table.dpo)('$key', ({ key, beta, chosen_lengths, rejected_lengths, loss, accuracy, margins }) => {
  const rows = (name: string, lengths: number[]) => split(column(`${key}.${name}`), lengths);
  const sides = { chosen: chosen_lengths, rejected: rejected_lengths };
  const cases = chosen_lengths.flatMap((_, i) =>
    Object.entries(sides).map(
      ([side, lengths]): LossCase => ({
        logprobs: rows(side, lengths)[i]!,
        inputs: { ref_logprobs: rows(`ref_${side}`, lengths)[i]! },
      }),
    ),
  );
  const outcome = evaluate(findLoss('dpo'), { beta }, cases);
  expectClose([outcome.loss], [loss]);
  const ofSide = (side: number) => outcome.gradients.filter((_, i) => i % 2 === side).flat();
  expectClose(ofSide(0), column(`${key}.grad_chosen`));
  expectClose(ofSide(1), column(`${key}.grad_rejected`));
  expect(outcome.metrics['accuracy:mean']).toBeCloseTo(accuracy, 6);
  const margin = (beta * margins.reduce((a, b) => a + b)) / margins.length;
  expect(outcome.metrics['margin:mean']).toBeCloseTo(margin, 5);
  const { 'chosen_reward:mean': chosen, 'rejected_reward:mean': rejected } = outcome.metrics;
  expect(chosen! - rejected!).toBeCloseTo(margin, 5);
});

test.each(
  more.cases.map((row, i) => ({
    ...row,
    title: `${i}: ${row.loss_fn} ${JSON.stringify(row.loss_fn_config)}`,
  })),
)('case $title', ({ loss_fn, loss_fn_config, loss, data }) => {
  const cases = data.map(
    ({ logprobs_current, grad, ...inputs }): LossCase => ({ logprobs: logprobs_current, inputs }),
  );
  const outcome = evaluate(findLoss(loss_fn), loss_fn_config, cases);
  expectClose([outcome.loss], [loss]);
  expectClose(
    outcome.gradients.flat(),
    data.flatMap(({ grad }) => grad.flat()),
  );
  if (loss_fn !== 'dpo') {
    expectClose([outcome.elementwise!.reduce((a, b) => a + b)], [loss]);
  }
});
