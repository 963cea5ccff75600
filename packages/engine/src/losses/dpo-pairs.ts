/** Refuses requests of `dpo` in which neighbours are not pairs: the SDK cuts large calls without knowing of pairs. */
import { type EngineDatum, EngineError } from '../engine.ts';

const ADVICE =
  'The SDK cuts a forward_backward call into requests of at most 1024 datums and about 5 MB, wherever that falls: ' +
  'pass fewer pairs per call, and several calls before one optim_step.';

/** @throws EngineError (user) where a pair is incomplete, or where the request seems to start in the middle of one. */
export function checkPairs(data: EngineDatum[]): void {
  if (data.length % 2 === 1) {
    throw new EngineError(
      'user',
      `loss_fn "dpo" needs pairs of datums (chosen, rejected, chosen, rejected, ...), but this request has ${data.length} datums. ${ADVICE}`,
    );
  }
  checkPairIds(data);
  if (startsInsidePair(data)) {
    throw new EngineError(
      'user',
      `loss_fn "dpo": no two datums of a pair share their prompt (the tokens before the first weight), but data[1] and data[2] do, and so on: the request seems to start with a rejected datum. ${ADVICE} If the pairs are meant so, give each pair a pair_id.`,
    );
  }
}

function checkPairIds(data: EngineDatum[]): void {
  const ids = data.map(({ inputs }) => inputs.pair_id?.data[0]);
  const without = ids.indexOf(undefined);
  if (without < 0) {
    for (let i = 0; i < ids.length; i += 2) {
      if (ids[i] === ids[i + 1]) continue;
      throw new EngineError(
        'user',
        `data[${i}] and data[${i + 1}] have pair_id ${ids[i]} and ${ids[i + 1]}, but neighbours must be a pair (chosen, rejected). ${ADVICE}`,
      );
    }
  } else if (ids.some((id) => id !== undefined)) {
    throw new EngineError(
      'user',
      `data[${without}].loss_fn_inputs.pair_id is missing, but other datums have one: give it to all or to none.`,
    );
  }
}

/**
 * A request cut out of the middle of a call can have an even number of datums and still pair every rejected one with the
 * next chosen one. Then prompts agree across pairs and nowhere within them.
 */
function startsInsidePair(data: EngineDatum[]): boolean {
  if (data.length < 4 || data[0]!.inputs.pair_id) return false;
  return data.every((datum, i) => i === 0 || samePrompt(data[i - 1]!, datum) === (i % 2 === 0));
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
