"""Distillation: a student adapter learns the token distribution of a teacher, here an adapter fine-tuned by sft.py.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
    python examples/distill.py tinker://.../sampler_weights/...     # a sampler checkpoint of the same base model

At each position the teacher's K likeliest tokens, with their probabilities, are soft targets of a [T, K] cross-entropy.
"""
import argparse

import numpy as np
import tinker
from common import BASE_MODEL, answer_ids, prompt_ids, read_jsonl, tokenizer_of
from tinker import types


def soft_datum(tokens: list[int], first: int, topk: list, k: int) -> types.Datum:
    """Targets and weights [T, K] from the teacher's rows; positions before the answer weigh nothing."""
    targets = np.zeros((len(tokens) - 1, k), dtype=np.int64)
    weights = np.zeros((len(tokens) - 1, k), dtype=np.float32)
    for position in range(first, len(tokens)):
        ids, logprobs = zip(*topk[position])
        probabilities = np.exp(np.asarray(logprobs))
        targets[position - 1] = ids
        weights[position - 1] = probabilities / probabilities.sum()
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("teacher", help="tinker:// path of a sampler checkpoint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()

    with tinker.ServiceClient() as service:
        student = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=2).result()
        teacher = service.create_sampling_client(model_path=args.teacher).result()
        tokenizer = tokenizer_of(student)
        rows = read_jsonl("sft.jsonl")
        for step in range(args.steps):
            texts = []
            for i in range(args.batch):
                user, answer = (m["content"] for m in rows[(step * args.batch + i) % len(rows)]["messages"])
                prompt = prompt_ids(tokenizer, user)
                texts.append((prompt + answer_ids(tokenizer, answer), len(prompt)))
            scored = [
                teacher.sample(
                    types.ModelInput.from_ints(tokens), 1, types.SamplingParams(max_tokens=1),
                    include_prompt_logprobs=True, topk_prompt_logprobs=args.top_k,
                )
                for tokens, _ in texts
            ]
            batch = [
                soft_datum(tokens, first, future.result().topk_prompt_logprobs, args.top_k)
                for (tokens, first), future in zip(texts, scored)
            ]
            loss = student.forward_backward(batch, "cross_entropy")
            student.optim_step(types.AdamParams(learning_rate=args.learning_rate)).result()
            positions = sum(len(tokens) - first for tokens, first in texts)
            print(f"step {step + 1:>3}  loss {loss.result().metrics['loss:sum'] / positions:.4f}", flush=True)
        print(f"training checkpoint: {student.save_state('distilled').result().path}")


if __name__ == "__main__":
    main()
