"""The served base model against transformers."""
from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from tinker import types

BASE_MODEL = os.environ.get("BASE_MODEL", "")
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Ein Umlaut: Äpfel, 3.14159, and a \u2603.",
]


@pytest.fixture(scope="module")
def sampler(service):
    return service.create_sampling_client(base_model=BASE_MODEL).result()


@pytest.mark.parametrize("text", TEXTS)
def test_logprobs_equal_those_of_transformers(reference, sampler, tokenizer, text):
    ids = tokenizer.encode(text)
    with torch.no_grad():
        logits = reference(input_ids=torch.tensor([ids])).logits[0]
    wanted = torch.log_softmax(logits[:-1], -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    served = sampler.compute_logprobs(types.ModelInput.from_ints(ids)).result()[1:]
    assert np.max(np.abs(np.asarray(served) - wanted.numpy())) < 1e-3


@pytest.mark.parametrize("prompt", ["The capital of France is", "Once upon a time", "1, 2, 3, 4,"])
def test_greedy_text_equals_that_of_transformers(reference, sampler, tokenizer, prompt):
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        wanted = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0)[0, len(ids):]
    params = types.SamplingParams(max_tokens=24, temperature=0.0)
    served = sampler.sample(types.ModelInput.from_ints(ids), 1, params).result().sequences[0].tokens
    assert served == wanted.tolist()
