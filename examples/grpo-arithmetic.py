"""Reinforcement learning (GRPO): the model learns to answer sums in the asked form from a reward alone.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
    python examples/grpo-arithmetic.py

Each step samples a group of answers per question, scores them, and pushes towards those above their group's mean. Credit for
answers that are nearly right keeps groups from agreeing early on one wrong answer, which would teach nothing.
The prompt shows one solved sum, since a form that is never sampled can never be rewarded. Prints the mean reward of every
step, which rises, if not at each step.
"""
import argparse
import re

import numpy as np
import tinker
from common import BASE_MODEL, END, answer_ids, encode, prompt_ids, read_jsonl, text_of, tokenizer_of
from tinker import types


def few_shot_prompt(tokenizer, question: str) -> list[int]:
    solved = prompt_ids(tokenizer, "Compute 14 + 23. Answer with the number in brackets.") + answer_ids(tokenizer, "[37]")
    return solved + encode(tokenizer, "\n") + prompt_ids(tokenizer, question)


def reward(answer: str, expected: str) -> float:
    """1 for the right answer. On the way some credit for a number in brackets, and more for one that is closer."""
    if re.fullmatch(r"\[-?\d+\]", answer.strip()) is None:
        return 0.0
    error = abs(int(answer.strip().strip("[]")) - int(expected.strip("[]")))
    return 1.0 if error == 0 else 0.2 + 0.5 * 0.9**error


def datum(prompt: list[int], sequence, advantage: float) -> types.Datum:
    """Targets of prompt and answer; positions of the prompt have no advantage, and so no gradient."""
    tokens = prompt + sequence.tokens
    skipped = len(prompt) - 1
    floats = lambda prefix, rest: np.asarray([0.0] * prefix + list(rest), dtype=np.float32)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "logprobs": floats(skipped, sequence.logprobs),
            "advantages": floats(skipped, [advantage] * len(sequence.tokens)),
        },
    )


def rollouts(sampler, tokenizer, rows: list[dict], group: int, max_tokens: int) -> tuple[list[types.Datum], float]:
    params = types.SamplingParams(max_tokens=max_tokens, temperature=1.0, stop=encode(tokenizer, END))
    prompts = [few_shot_prompt(tokenizer, row["prompt"][0]["content"]) for row in rows]
    futures = [sampler.sample(types.ModelInput.from_ints(prompt), group, params) for prompt in prompts]
    data, total = [], 0.0
    for row, prompt, future in zip(rows, prompts, futures):
        sequences = future.result().sequences
        rewards = np.asarray([reward(text_of(tokenizer, s.tokens), row["answer"]) for s in sequences])
        total += float(rewards.mean())
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        data += [datum(prompt, s, a) for s, a in zip(sequences, advantages) if a != 0.0]
    return data, total / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    rows = [row for row in read_jsonl("rl.jsonl") if row["task"] == "arithmetic"]
    with tinker.ServiceClient() as service:
        model = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=args.seed).result()
        tokenizer = tokenizer_of(model)
        for step in range(args.steps):
            sampler = model.save_weights_and_get_sampling_client().result()
            batch = [rows[(step * args.questions + i) % len(rows)] for i in range(args.questions)]
            data, mean_reward = rollouts(sampler, tokenizer, batch, args.group, args.max_tokens)
            print(f"step {step + 1:>3}  reward {mean_reward:.3f}  {len(data)} rollouts", flush=True)
            if data:
                update = model.forward_backward(data, "importance_sampling")
                model.optim_step(types.AdamParams(learning_rate=args.learning_rate)).result()
                update.result()
        print(f"training checkpoint: {model.save_state('grpo-arithmetic').result().path}")


if __name__ == "__main__":
    main()
