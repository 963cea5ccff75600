"""What the Python examples share: the data, the chat format, and how many answers are exactly right."""
from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import tinker
from tinker import types

DATA = Path(__file__).parent / "data"
BASE_MODEL = os.environ.get("BASE_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
END = "<|im_end|>"


def read_jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def tokenizer_of(client: tinker.TrainingClient):
    """ANNEAL_TOKENIZER names a folder with tokenizer.json; otherwise the server says which tokenizer it uses."""
    folder = os.environ.get("ANNEAL_TOKENIZER")
    if not folder:
        return client.get_tokenizer()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def prompt_ids(tokenizer, user: str) -> list[int]:
    return encode(tokenizer, f"<|im_start|>user\n{user}{END}\n<|im_start|>assistant\n")


def answer_ids(tokenizer, answer: str) -> list[int]:
    return encode(tokenizer, f"{answer}{END}")


def text_of(tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens).removesuffix(END)


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
    """Question and answer of a row of sft.jsonl."""
    return row["messages"][0]["content"], row["messages"][1]["content"]


def exact_match(sampler: tinker.SamplingClient, tokenizer, rows: list[dict]) -> float:
    """Share of greedy answers that are exactly right. All questions are in flight together; the server batches them."""
    params = types.SamplingParams(max_tokens=48, temperature=0.0, stop=encode(tokenizer, END))
    futures = [
        sampler.sample(types.ModelInput.from_ints(prompt_ids(tokenizer, conversation(row)[0])), 1, params) for row in rows
    ]
    answers = [text_of(tokenizer, future.result().sequences[0].tokens).strip() for future in futures]
    right = Counter(row["task"] for row, answer in zip(rows, answers) if answer == conversation(row)[1])
    for task, total in sorted(Counter(row["task"] for row in rows).items()):
        print(f"  {task:<12} {right[task]} of {total}", flush=True)
    return sum(right.values()) / len(rows)
