"""Adapters of every family of the engine's fixtures, merged by `anneal checkpoint merge`, in transformers."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from interop_families import CASES, FIXTURES, HERE, NODE, load, tolerance
from peft import PeftModel
from safetensors.torch import load_file, save_file

CLI = os.environ.get("ANNEAL_CLI", "")
HEAD = "lm_head.weight"
EMBEDDINGS = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight")


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def adapter(request, tmp_path):
    family, variant = request.param
    folder = tmp_path / "adapter"
    folder.mkdir()
    script = HERE / "write_fixture_adapter.ts"
    subprocess.run([NODE, "--conditions=@anneal/source", script, family, variant, folder], check=True, timeout=300)
    return {"base": FIXTURES / family / "model", "folder": folder, "output": tmp_path / "merged"}


def merge(adapter, base: Path):
    if not CLI:
        pytest.skip("set ANNEAL_CLI")
    command = [NODE, *os.environ.get("ANNEAL_NODE_FLAGS", "").split(), CLI, "checkpoint", "merge", adapter["folder"]]
    return subprocess.run(
        [*command, "--model", base, "--output", adapter["output"]], capture_output=True, text=True, timeout=300
    )


def is_on_experts(adapter) -> bool:
    return any(".experts." in name for name in load_file(adapter["folder"] / "adapter_model.safetensors"))


def merged_by_torch(folder: Path, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    config, lora = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")
    wanted = dict(base)
    for name in (n for n in lora if n.endswith("lora_A.weight")):
        target = name.removeprefix("base_model.model.").replace(".lora_A", "")
        original = base.get(target, next(base[name] for name in EMBEDDINGS if name in base) if target == HEAD else None)
        delta = lora[name.replace("lora_A", "lora_B")].double() @ lora[name].double()
        wanted[target] = (original.double() + config["lora_alpha"] / config["r"] * delta).to(original.dtype)
    return wanted


def test_weights_are_those_that_torch_merges_in_the_dtype_of_the_base(adapter):
    done = merge(adapter, adapter["base"])
    if is_on_experts(adapter):
        assert done.returncode == 1 and "experts" in done.stderr and not adapter["output"].exists()
        return
    assert done.returncode == 0, done.stderr
    base = load_file(adapter["base"] / "model.safetensors")
    wanted, found = merged_by_torch(adapter["folder"], base), load_file(adapter["output"] / "model.safetensors")
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        # The same rounding to bf16, but for sums that lie by the middle of two values: those may go to either.
        torch.testing.assert_close(found[name].float(), value.float(), rtol=2**-7, atol=1e-6)
        assert (found[name] != value).float().mean() < 0.001


def test_transformers_computes_what_peft_does(adapter, tmp_path):
    """On a base in fp32, where merging rounds to nothing that one sees."""
    if is_on_experts(adapter):
        pytest.skip("experts are not merged")
    base = tmp_path / "base"
    shutil.copytree(adapter["base"], base)
    weights = load_file(base / "model.safetensors")
    save_file({name: value.float() for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    done = merge(adapter, base)
    assert done.returncode == 0, done.stderr
    merged, adapted = load(adapter["output"]), PeftModel.from_pretrained(load(base), adapter["folder"]).float().eval()
    for sequence in json.loads((adapter["base"].parent / "reference.json").read_text())["sequences"]:
        ids = torch.tensor([sequence["tokens"]])
        with torch.no_grad():
            found, wanted = (model(input_ids=ids, use_cache=False).logits for model in (merged, adapted))
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance(adapter["base"].parent.name))
