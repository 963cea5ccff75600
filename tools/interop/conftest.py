from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import tinker
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).parent.parent / "compat"))

# Threads that spin for each other are slow beside a server that uses every core.
torch.set_num_threads(1)

FOLDER = os.environ.get("BASE_MODEL_DIR", "")


@pytest.fixture(scope="session")
def service():
    if not FOLDER or not os.environ.get("TINKER_BASE_URL"):
        pytest.skip("set TINKER_BASE_URL, TINKER_API_KEY, BASE_MODEL and BASE_MODEL_DIR")
    client = tinker.ServiceClient(display_name="interop")
    yield client
    client.close("success").result(timeout=30)


@pytest.fixture(scope="session")
def tokenizer(service):
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def reference(service):
    """The served checkpoint in transformers, fp32; a fresh one per test, since peft changes it in place."""
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
