"""Adapters that the server trains, in peft; and peft's training beside the server's."""
from __future__ import annotations

import json
import os
import uuid
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from compat_complaints import archived
from tinker import types

BASE_MODEL = os.environ.get("BASE_MODEL", "")
RATE, STEPS, RANK = 5e-4, 6, 8
TEXTS = [
    "Translate to pig latin: kitten yellow doctor -> ittenkay ellowyay octorday",
    "Compute 33 + 57. Answer with the number in brackets. -> [90]",
    'Extract the record as JSON: The baker David -> {"name": "David", "job": "baker"}',
]


def datum(ids: list[int]) -> types.Datum:
    weights = np.linspace(0.0, 1.5, len(ids) - 1, dtype=np.float32)
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={"target_tokens": np.asarray(ids[1:], dtype=np.int64), "weights": weights},
    )


def export(model, folder: Path) -> Path:
    """Downloads the adapter as the server exports it."""
    path = model.save_weights_external(f"interop-{uuid.uuid4().hex[:8]}", ttl_seconds=3600).result().path
    folder.mkdir(parents=True)
    for name, url in tinker.RestClient().get_external_weights_urls(path).result().urls.items():
        urllib.request.urlretrieve(url, folder / name)
    name_head_as_peft_does(folder)
    return folder


def name_head_as_peft_does(folder: Path) -> None:
    """Exports call the head `model.unembed_tokens`, as the hosted service does; peft and transformers call it `lm_head`."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = {k.replace("model.model.unembed_tokens", "model.lm_head"): v for k, v in load_file(weights).items()}
    save_file(tensors, weights)
    config.write_text(config.read_text().replace('"unembed_tokens"', '"lm_head"'))


def logprobs(model, ids: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.fixture(params=[False, True], ids=["attention and MLP", "with unembedding"])
def trained(request, service, tokenizer, tmp_path):
    """A model before and after training, the loss of each step, and its token lists."""
    tokens = [tokenizer.encode(text) for text in TEXTS]
    data = [datum(ids) for ids in tokens]
    model = service.create_lora_training_client(
        base_model=BASE_MODEL, rank=RANK, seed=3, train_unembed=request.param
    ).result()
    before = export(model, tmp_path / "before")
    losses = []
    for _ in range(STEPS):
        loss = model.forward_backward(data, "cross_entropy")
        model.optim_step(types.AdamParams(learning_rate=RATE, weight_decay=0.1, grad_clip_norm=1.0)).result()
        losses.append(loss.result().metrics["loss:sum"])
    return {"model": model, "before": before, "after": export(model, tmp_path / "after"), "losses": losses, "tokens": tokens}


def test_peft_loads_the_export_with_equal_logprobs(trained, reference):
    sampler = trained["model"].save_weights_and_get_sampling_client().result()
    adapted = PeftModel.from_pretrained(reference, trained["after"]).eval()
    for ids in trained["tokens"]:
        with torch.no_grad():
            wanted = logprobs(adapted, ids).numpy()
        served = sampler.compute_logprobs(types.ModelInput.from_ints(ids)).result()[1:]
        assert np.max(np.abs(np.asarray(served) - wanted)) < 1e-3


def test_peft_loads_a_downloaded_checkpoint_as_it_is(trained, reference, tmp_path):
    """Unlike an export, the archive of a checkpoint calls the head `lm_head`."""
    tensors, config = archived(trained["model"].save_weights_for_sampler(f"interop-{uuid.uuid4().hex[:8]}").result().path)
    folder = tmp_path / "archive"
    folder.mkdir()
    save_file({name: torch.from_numpy(values.copy()) for name, values in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    sampler = trained["model"].save_weights_and_get_sampling_client().result()
    adapted = PeftModel.from_pretrained(reference, folder).eval()
    for ids in trained["tokens"]:
        with torch.no_grad():
            wanted = logprobs(adapted, ids).numpy()
        served = sampler.compute_logprobs(types.ModelInput.from_ints(ids)).result()[1:]
        assert np.max(np.abs(np.asarray(served) - wanted)) < 1e-3


def test_training_follows_torch(trained, reference):
    """From the same initial adapter and data, each step's loss equals that of peft with torch's AdamW."""
    model = PeftModel.from_pretrained(reference, trained["before"], is_trainable=True)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.1)
    for served in trained["losses"]:
        loss = torch.zeros(())
        for ids in trained["tokens"]:
            loss = loss - (logprobs(model, ids) * torch.linspace(0.0, 1.5, len(ids) - 1)).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(served - loss.item()) / loss.item() < 0.01
