"""Adapters of every family of the engine's fixtures, as the engine exports them, in peft on the model in transformers."""
from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Mxfp4Config

HERE = Path(__file__).parent
FIXTURES = HERE.parent.parent / "packages" / "engine" / "fixtures" / "arch"
NODE = os.environ.get("ANNEAL_NODE", "node")
CASES = [(f.name, v) for f in sorted(FIXTURES.iterdir()) for v in json.loads((f / "reference.json").read_text())["lora"]]


def load(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    quantized = {"quantization_config": Mxfp4Config(dequantize=True)} if "quantization_config" in config else {}
    # The class that the checkpoint names: that of a model that also sees images has its text part under another name.
    named = getattr(transformers, config["architectures"][0])
    return named.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **quantized).eval()


def tolerance(family: str) -> float:
    """Of log-probabilities: torch itself, in float32, strays further in linear attention."""
    return 1e-3 if family.startswith("qwen3_5") else 1e-4


@pytest.mark.parametrize("family, variant", CASES)
def test_peft_computes_what_the_fixture_says(family, variant, tmp_path):
    script = HERE / "write_fixture_adapter.ts"
    subprocess.run([NODE, "--conditions=@anneal/source", script, family, variant, tmp_path], check=True, timeout=300)
    with warnings.catch_warnings():
        # peft only warns about tensors of an adapter that it has no place for, and of places that nothing was given for.
        warnings.filterwarnings("error", message=".*(missing|unexpected).* keys.*")
        model = PeftModel.from_pretrained(load(FIXTURES / family / "model"), tmp_path).float().eval()
    reference = json.loads((FIXTURES / family / "reference.json").read_text())
    wanted = load_file(FIXTURES / family / f"lora_{variant}.safetensors")
    for i, sequence in enumerate(reference["sequences"]):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([sequence["tokens"]]), use_cache=False).logits[0]
        targets = torch.tensor(sequence["targets"])[:, None]
        logprobs = torch.log_softmax(logits, -1).gather(-1, targets)[:, 0]
        assert (logprobs - wanted[f"logprobs.{i}"]).abs().max() < tolerance(family)
