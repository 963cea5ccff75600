"""What the Python examples share: the data, the chat format, and greedy answers."""
from __future__ import annotations

import json
import os
from pathlib import Path

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


def greedy_answers(sampler: tinker.SamplingClient, tokenizer, users: list[str], max_tokens: int = 48) -> list[str]:
    """All questions are in flight together; the server batches them."""
    params = types.SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=encode(tokenizer, END))
    futures = [
        sampler.sample(types.ModelInput.from_ints(prompt_ids(tokenizer, user)), 1, params) for user in users
    ]
    return [text_of(tokenizer, future.result().sequences[0].tokens) for future in futures]
