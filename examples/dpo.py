"""Direct preference optimisation: chosen answers become likelier than rejected ones.

    export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
    python examples/dpo.py          # needs torch on this side: the loss is computed here

The loss is -log sigmoid(beta * (margin of the model - margin of the reference)), margins being log p(chosen) - log p(rejected).
"""
import argparse

import numpy as np
import tinker
import torch
from common import BASE_MODEL, answer_ids, prompt_ids, read_jsonl, tokenizer_of
from tinker import types


def datum(tokenizer, user: str, answer: str) -> types.Datum:
    prompt, reply = prompt_ids(tokenizer, user), answer_ids(tokenizer, answer)
    tokens = prompt + reply
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "weights": np.asarray([0.0] * (len(prompt) - 1) + [1.0] * len(reply), dtype=np.float32),
        },
    )


def weights_of(data: types.Datum) -> torch.Tensor:
    return torch.tensor(data.loss_fn_inputs["weights"].data)


def pair(tokenizer, row: dict) -> list[types.Datum]:
    user = row["prompt"][0]["content"]
    return [datum(tokenizer, user, row[kind]["content"]) for kind in ("chosen", "rejected")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    args = parser.parse_args()

    with tinker.ServiceClient() as service:
        model = service.create_lora_training_client(base_model=BASE_MODEL, rank=16, seed=1).result()
        tokenizer = tokenizer_of(model)
        pairs = [pair(tokenizer, row) for row in read_jsonl("dpo.jsonl")]
        for step in range(args.steps):
            batch = [d for i in range(args.pairs) for d in pairs[(step * args.pairs + i) % len(pairs)]]
            # A model whose adapter is new equals the base model, so a forward pass of the base is the reference.
            reference = reference_logprobs(service, batch)

            def loss(data, logprobs):
                scores = [(lp * weights_of(d)).sum() for d, lp in zip(data, logprobs)]
                gains = [score - ref for score, ref in zip(scores, reference)]
                margins = torch.stack([gains[i] - gains[i + 1] for i in range(0, len(gains), 2)])
                value = -torch.nn.functional.logsigmoid(args.beta * margins).mean()
                return value, {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}

            result = model.forward_backward_custom(batch, loss).result()
            model.optim_step(types.AdamParams(learning_rate=args.learning_rate)).result()
            m = result.metrics
            print(f"step {step + 1:>3}  loss {m['loss:sum']:.4f}  margin {m['margin']:+.2f}  accuracy {m['accuracy']:.2f}", flush=True)
        print(f"training checkpoint: {model.save_state('dpo').result().path}")


def reference_logprobs(service: tinker.ServiceClient, batch: list[types.Datum]) -> list[float]:
    """Summed log-probability of each answer under the base model."""
    sampler = service.create_sampling_client(base_model=BASE_MODEL).result()
    futures = []
    for d in batch:
        tokens = d.model_input.to_ints() + [int(d.loss_fn_inputs["target_tokens"].data[-1])]
        futures.append(sampler.compute_logprobs(types.ModelInput.from_ints(tokens)))
    return [float(np.dot(f.result()[1:], weights_of(d).numpy())) for f, d in zip(futures, batch)]


if __name__ == "__main__":
    main()
