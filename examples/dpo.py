"""Direct preference optimisation: chosen answers become likelier than rejected ones, also for questions never seen.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
    python examples/dpo.py

As usual, the model is fine-tuned first, on the right answers of sft.jsonl and on more sums of the same kind: 40 pairs teach
a small model the form of an answer, but not to add. The server computes the loss, and what it compares with: the
log-probabilities of the base model. Prints the accuracy on the last 24 pairs, which are held out: the share of those whose
chosen answer gained on the rejected one.
"""
import argparse

import tinker
from common import BASE_MODEL, conversation, datum, read_jsonl, tokenizer_of
from sft import fine_tune
from tinker import types

HELD_OUT = 24


def more_sums(asked: set[str]) -> list[tuple[str, str]]:
    """Questions, none of which is in `asked`, and their answers: all sums and differences of 2 to 60, well mixed."""
    numbers, sums = 59, []
    for i in range(2 * numbers**2):
        at = i * 3001 % (2 * numbers**2)
        a, b, sign = 2 + at % numbers, 2 + at // numbers % numbers, 1 if at < numbers**2 else -1
        question = f"Compute {a} {'+' if sign > 0 else '-'} {b}. Answer with the number in brackets."
        if question not in asked:
            sums.append((question, f"[{a + sign * b}]"))
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--warm-up", type=int, default=80, help="steps of fine-tuning before")
    parser.add_argument("--sums", type=int, default=3, help="sums for each right answer of sft.jsonl")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    args = parser.parse_args()
    config = {"beta": args.beta, "reference": "base"}

    with tinker.ServiceClient() as service:
        model = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=1).result()
        tokenizer = tokenizer_of(model)
        rows = [(row["prompt"][0]["content"], row) for row in read_jsonl("dpo.jsonl")]
        pairs = [[datum(tokenizer, asked, row[kind]["content"]) for kind in ("chosen", "rejected")] for asked, row in rows]
        train, held_out = pairs[:-HELD_OUT], [d for pair in pairs[-HELD_OUT:] for d in pair]

        def held_out_accuracy() -> str:
            metrics = model.forward(held_out, "dpo", config).result().metrics
            return f"held-out accuracy: {metrics['accuracy:mean']:.3f} of {HELD_OUT} pairs"

        sums = more_sums({asked for asked, _ in rows})
        right = [
            pair
            for i, row in enumerate(read_jsonl("sft.jsonl"))
            for pair in (conversation(row), *sums[i * args.sums : (i + 1) * args.sums])
        ]
        answers = [datum(tokenizer, question, answer) for question, answer in right]
        fine_tune(model, answers, args.warm_up, batch=16, learning_rate=1e-3)
        print(f"after fine-tuning  {held_out_accuracy()}", flush=True)
        for step in range(args.steps):
            batch = [d for i in range(args.pairs) for d in train[(step * args.pairs + i) % len(train)]]
            loss = model.forward_backward(batch, "dpo", config)
            learning_rate = args.learning_rate * (1 - step / args.steps)
            model.optim_step(types.AdamParams(learning_rate=learning_rate)).result()
            m = loss.result().metrics
            print(
                f"step {step + 1:>3}  loss {m['loss:sum']:.4f}  margin {m['margin:mean']:+.2f}  "
                f"accuracy {m['accuracy:mean']:.2f}",
                flush=True,
            )
        print(f"after preferences  {held_out_accuracy()}", flush=True)
        print(f"training checkpoint: {model.save_state('dpo').result().path}")


if __name__ == "__main__":
    main()
