/**
 * Which datums of `dpo` are a pair. The SDK cuts large calls into requests without knowing of pairs, so a request may end,
 * or start, in the middle of one: whatever could be such a request is refused.
 */
import { type EngineDatum, EngineError } from '../engine.ts';

const ADVICE =
  'The SDK cuts a forward_backward call into requests of at most 1024 datums and about 5 MB, wherever that falls: ' +
  'pass fewer pairs per call, and several calls before one optim_step.';

/**
 * Requests below both are never followed by another of the same call: SDKs fill a request before they start the next.
 * The number of bytes is far below their limit, since versions differ in what they count for a token.
 */
const CUT_DATUMS = 1024;
const CUT_BYTES = 1_000_000;

/** @throws EngineError (user) where a pair is incomplete, or where the request may start in the middle of one. */
export function checkPairs(data: EngineDatum[]): void {
  if (hasPairIds(data)) checkPairIds(data);
  else checkNeighbours(data);
}

/** Indices of the datums, chosen and rejected in turn: the first and second datum of each `pair_id`, or as they came. */
export function orderOfPairs(data: EngineDatum[]): number[] {
  if (!hasPairIds(data)) return [...data.keys()];
  return [...datumsById(data).values()].flat();
}

function hasPairIds(data: EngineDatum[]): boolean {
  return data.some(({ inputs }) => inputs.pair_id !== undefined);
}

function datumsById(data: EngineDatum[]): Map<string, number[]> {
  const byId = new Map<string, number[]>();
  data.forEach(({ inputs }, datum) => {
    const id = String(inputs.pair_id!.data[0]);
    byId.set(id, [...(byId.get(id) ?? []), datum]);
  });
  return byId;
}

function checkPairIds(data: EngineDatum[]): void {
  data.forEach(({ inputs: { pair_id } }, datum) => {
    const field = `data[${datum}].loss_fn_inputs.pair_id`;
    if (!pair_id) refuse(`${field} is missing, but other datums have one: give it to all or to none.`);
    const ids = Array.from(pair_id.data, String);
    const other = ids.findIndex((id) => id !== ids[0]);
    if (other > 0)
      refuse(`${field}[${other}] is ${ids[other]}, [0] is ${ids[0]}; all positions must hold one id.`);
  });
  for (const [id, datums] of datumsById(data)) {
    if (datums.length === 2) continue;
    const found = datums.map((datum) => `data[${datum}]`).join(', ');
    refuse(
      datums.length === 1
        ? `pair_id ${id} stands in ${found} only; the other datum of the pair is not in this request. ${ADVICE}`
        : `pair_id ${id} stands in ${datums.length} datums (${found}); it must stand in two, chosen before rejected.`,
    );
  }
}

/** Pairs without ids are adjacent. */
function checkNeighbours(data: EngineDatum[]): void {
  if (data.length % 2 === 1) {
    refuse(
      `loss_fn "dpo" needs pairs of datums (chosen, rejected, chosen, rejected, ...), but this request has ${data.length} datums. ${ADVICE}`,
    );
  }
  const agree = data.slice(1).map((datum, i) => samePrompt(data[i]!, datum));
  const within = agree.filter((_, i) => i % 2 === 0);
  const between = agree.filter((_, i) => i % 2 === 1);
  if (between.length > 0 && between.every(Boolean) && !within.some(Boolean)) {
    refuse(
      `loss_fn "dpo": no two datums of a pair share their prompt (the tokens before the first weight), but data[1] and data[2] do, and so on: the request seems to start with a rejected datum. ${ADVICE} If the pairs are meant so, give each pair a pair_id.`,
    );
  }
  const provesPairs = within.every(Boolean) && !between.every(Boolean);
  if (mayBeCut(data) && !provesPairs) {
    refuse(
      `loss_fn "dpo": this request has ${data.length} datums and may be a part of a larger call that starts in the middle of a pair; prompts (the tokens before the first weight) do not show where pairs start. Give each pair a pair_id (one number at all positions of both datums), or pass fewer pairs per call.`,
    );
  }
}

/**
 * Whether a request of an even number of datums can start inside a pair. Only those that others follow can: were it the
 * last one, all before it would hold whole pairs, or an odd number of datums, which is refused there.
 */
function mayBeCut(data: EngineDatum[]): boolean {
  const bytes = data.reduce((sum, { tokens, inputs }) => {
    const values = Object.values(inputs).map(({ data }) => data.byteLength);
    return sum + tokens.byteLength + values.reduce((a, b) => a + b, 0);
  }, 0);
  return data.length >= CUT_DATUMS || bytes >= CUT_BYTES;
}

function samePrompt(a: EngineDatum, b: EngineDatum): boolean {
  const [first, second] = [promptTokens(a), promptTokens(b)];
  return (
    first !== undefined &&
    second !== undefined &&
    first.length === second.length &&
    first.every((token, i) => token === second[i])
  );
}

/** Tokens up to the first one whose target has weight; undefined where weights do not tell. */
function promptTokens({ tokens, inputs }: EngineDatum): Int32Array | undefined {
  const start = inputs.weights ? Array.from(inputs.weights.data, Number).findIndex((w) => w !== 0) : -1;
  return start < 0 ? undefined : tokens.subarray(0, start + 1);
}

function refuse(problem: string): never {
  throw new EngineError('user', problem);
}
