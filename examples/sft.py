"""Supervised fine-tuning: teaches a small model pig latin, arithmetic and JSON extraction in 40 steps.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...   # as `npm start` prints them
    python examples/sft.py

Prints the loss of every step, and how many held-out questions are answered exactly right before and after.
"""
import argparse
from collections import Counter

import numpy as np
import tinker
from common import BASE_MODEL, answer_ids, greedy_answers, prompt_ids, read_jsonl, tokenizer_of
from tinker import types


def datum(tokenizer, user: str, answer: str) -> types.Datum:
    """Next-token targets over prompt and answer; only the answer and its end mark have weight."""
    prompt, reply = prompt_ids(tokenizer, user), answer_ids(tokenizer, answer)
    tokens = prompt + reply
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(reply)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "weights": np.asarray(weights, dtype=np.float32),
        },
    )


def conversation(row: dict) -> tuple[str, str]:
    return row["messages"][0]["content"], row["messages"][1]["content"]


def exact_match(sampler, tokenizer, rows: list[dict]) -> float:
    questions, expected = zip(*map(conversation, rows))
    answers = greedy_answers(sampler, tokenizer, list(questions))
    right = Counter(row["task"] for row, a, e in zip(rows, answers, expected) if a.strip() == e)
    for task in sorted({row["task"] for row in rows}):
        print(f"  {task:<12} {right[task]} of {sum(row['task'] == task for row in rows)}")
    return sum(right.values()) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()

    with tinker.ServiceClient() as service:
        model = service.create_lora_training_client(base_model=BASE_MODEL, rank=args.rank, seed=1).result()
        tokenizer = tokenizer_of(model)
        train, held_out = read_jsonl("sft.jsonl"), read_jsonl("sft_eval.jsonl")
        data = [datum(tokenizer, *conversation(row)) for row in train]

        print("before fine-tuning")
        before = exact_match(service.create_sampling_client(base_model=BASE_MODEL).result(), tokenizer, held_out)
        for step in range(args.steps):
            batch = [data[(step * args.batch + i) % len(data)] for i in range(args.batch)]
            loss = model.forward_backward(batch, "cross_entropy")
            update = model.optim_step(types.AdamParams(learning_rate=args.learning_rate))
            weight = sum(float(np.sum(d.loss_fn_inputs["weights"].data)) for d in batch)
            print(f"step {step + 1:>3}  loss {loss.result().metrics['loss:sum'] / weight:.4f}", flush=True)
            update.result()
        print("after fine-tuning")
        path = model.save_weights_for_sampler("sft").result().path
        after = exact_match(service.create_sampling_client(model_path=path).result(), tokenizer, held_out)
        print(f"exact match: {before:.1%} before, {after:.1%} after")
        print(f"sampler checkpoint: {path}")
        print(f"training checkpoint, to go on from: {model.save_state('sft').result().path}")


if __name__ == "__main__":
    main()
