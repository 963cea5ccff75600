"""Supervised fine-tuning: teaches a small model pig latin, arithmetic and JSON extraction in 40 steps.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...   # as `npm start` prints them
    python examples/sft.py

Prints the loss of every step, and how many held-out questions are answered exactly right before and after.
"""
import argparse

import numpy as np
import tinker
from common import BASE_MODEL, conversation, datum, exact_match, read_jsonl, tokenizer_of
from tinker import types


def fine_tune(model: tinker.TrainingClient, data: list[types.Datum], steps: int, batch: int, learning_rate: float) -> None:
    """Goes through the data in turn, at a learning rate that falls to zero, and prints the loss per token of every step."""
    for step in range(steps):
        chosen = [data[(step * batch + i) % len(data)] for i in range(batch)]
        loss = model.forward_backward(chosen, "cross_entropy")
        update = model.optim_step(types.AdamParams(learning_rate=learning_rate * (1 - step / steps)))
        weight = sum(float(np.sum(d.loss_fn_inputs["weights"].data)) for d in chosen)
        print(f"step {step + 1:>3}  loss {loss.result().metrics['loss:sum'] / weight:.4f}", flush=True)
        update.result()


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
        data = [datum(tokenizer, *conversation(row)) for row in read_jsonl("sft.jsonl")]
        held_out = read_jsonl("sft_eval.jsonl")

        print("before fine-tuning")
        before = exact_match(service.create_sampling_client(base_model=BASE_MODEL).result(), tokenizer, held_out)
        fine_tune(model, data, args.steps, args.batch, args.learning_rate)
        print("after fine-tuning")
        path = model.save_weights_for_sampler("sft").result().path
        after = exact_match(service.create_sampling_client(model_path=path).result(), tokenizer, held_out)
        print(f"exact match: {before:.1%} before, {after:.1%} after")
        print(f"sampler checkpoint: {path}")
        print(f"training checkpoint, to go on from: {model.save_state('sft').result().path}")


if __name__ == "__main__":
    main()
