"""Distillation: a student learns the token distributions of a teacher on the teacher's own answers, and no right answers.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
    python examples/distill.py                                      # fine-tunes a teacher first
    python examples/distill.py tinker://.../sampler_weights/...     # or takes one, such as sft.py's

At each position the teacher's K likeliest tokens, with their probabilities, are soft targets of a [T, K] cross-entropy.
Prints KL(teacher || student) per token of each step, and how many held-out questions both answer exactly right.
"""
import argparse

import numpy as np
import tinker
from common import BASE_MODEL, END, conversation, datum, encode, exact_match, prompt_ids, read_jsonl, tokenizer_of
from sft import fine_tune
from tinker import types


def fine_tuned_teacher(service: tinker.ServiceClient, rows: list[dict], steps: int, batch: int) -> str:
    """Path of a sampler checkpoint that has learned the tasks from right answers."""
    model = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=1).result()
    tokenizer = tokenizer_of(model)
    fine_tune(model, [datum(tokenizer, *conversation(row)) for row in rows], steps, batch, learning_rate=1e-3)
    return model.save_weights_for_sampler("teacher").result().path


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


def taught(teacher: tinker.SamplingClient, tokenizer, questions: list[str], k: int) -> list[types.Datum]:
    """The teacher answers, then scores its answers."""
    prompts = [prompt_ids(tokenizer, question) for question in questions]
    greedy = types.SamplingParams(max_tokens=48, temperature=0.0, stop=encode(tokenizer, END))
    answers = [teacher.sample(types.ModelInput.from_ints(prompt), 1, greedy) for prompt in prompts]
    texts = [prompt + answer.result().sequences[0].tokens for prompt, answer in zip(prompts, answers)]
    scores = [
        teacher.sample(
            types.ModelInput.from_ints(tokens), 1, types.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True, topk_prompt_logprobs=k,
        )
        for tokens in texts
    ]
    return [
        soft_datum(tokens, len(prompt), score.result().topk_prompt_logprobs, k)
        for tokens, prompt, score in zip(texts, prompts, scores)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("teacher", nargs="?", help="tinker:// path of a sampler checkpoint")
    parser.add_argument("--teacher-steps", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()

    with tinker.ServiceClient() as service:
        rows, held_out = read_jsonl("sft.jsonl"), read_jsonl("sft_eval.jsonl")
        path = args.teacher or fine_tuned_teacher(service, rows, args.teacher_steps, args.batch)
        teacher = service.create_sampling_client(model_path=path).result()
        student = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=2).result()
        tokenizer = tokenizer_of(student)
        for step in range(args.steps):
            chosen = [rows[(step * args.batch + i) % len(rows)] for i in range(args.batch)]
            batch = taught(teacher, tokenizer, [conversation(row)[0] for row in chosen], args.top_k)
            loss = student.forward_backward(batch, "cross_entropy")
            student.optim_step(types.AdamParams(learning_rate=args.learning_rate)).result()
            weights = np.concatenate([np.asarray(d.loss_fn_inputs["weights"].data) for d in batch])
            entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-30)))
            kl = (loss.result().metrics["loss:sum"] - entropy) / weights.sum()
            print(f"step {step + 1:>3}  kl {kl:.4f}", flush=True)
        print("teacher")
        teachers = exact_match(teacher, tokenizer, held_out)
        print("student")
        sampler = student.save_weights_and_get_sampling_client().result()
        print(f"exact match: teacher {teachers:.1%}, student {exact_match(sampler, tokenizer, held_out):.1%}")
        print(f"training checkpoint: {student.save_state('distilled').result().path}")


if __name__ == "__main__":
    main()
