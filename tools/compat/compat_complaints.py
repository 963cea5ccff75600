"""What users of the hosted service ask for or complain about, each with a test: the first line of its docstring says it.

docs/compatibility.md lists them; `python compat_surface.py` writes that table anew.
"""
from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
import tinker
from compat_cli import tinker_command
from compat_support import (
    BASE_MODEL, BASE_URL, REFUSALS, TIMEOUT, TOL, adapter_of, ce, close, clogp, fwd, get, lps, mi, new_tc, params, raw, step,
    toks, uniq,
)
from own_server import ALPHA, FIXTURES, MODEL, OwnServer
from safetensors.numpy import load, load_file
from tinker import types


@pytest.fixture(scope="module")
def trained(service):
    """A model whose function is far from the base's, and the tokens it was trained on."""
    tc, ids = new_tc(service), toks(12, 500)
    for _ in range(4):
        step(tc, [ce(ids)], lr=1e-2)
    return tc, ids


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    server = OwnServer(tmp_path_factory.mktemp("own"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def tensors_of(tc) -> dict[str, np.ndarray]:
    return adapter_of(tc)[0]


# ---- training ------------------------------------------------------------------------------------


def test_resuming_restores_the_optimizer(service):
    """Resuming from a checkpoint restores the optimizer's state, to the bit."""
    tc = new_tc(service, seed=11)
    for i in range(3):
        step(tc, [ce(toks(10, 510 + i))], lr=1e-2)
    path = get(tc.save_state(uniq("resume"))).path
    warm = get(service.create_training_client_from_state_with_optimizer(path))
    cold = get(service.create_training_client_from_state(path))
    for model in (tc, warm, cold):
        step(model, [ce(toks(10, 520))], lr=1e-2)
    live, resumed, fresh = (tensors_of(model) for model in (tc, warm, cold))
    assert all(np.array_equal(live[name], resumed[name]) for name in live)
    assert any(not np.allclose(live[name], fresh[name], atol=1e-4) for name in live)


def test_the_gradient_norm_is_a_metric_of_optim_step(service):
    """The gradient's norm is among the metrics of `optim_step`, before clipping."""
    ids = toks(10, 530)

    def norm_of(weight: float, **adam) -> float:
        tc = new_tc(service, seed=12)
        _, update = step(tc, [ce(ids, [weight] * (len(ids) - 1))], lr=0.0, **adam)
        return update.metrics["grad_norm:l2"]

    once = norm_of(1.0)
    assert once > 0.01
    assert np.isclose(norm_of(2.0), 2 * once, rtol=1e-3)
    assert np.isclose(norm_of(1.0, grad_clip_norm=once / 10), once, rtol=1e-4)
    assert norm_of(0.0) == 0.0


def test_lora_alpha_can_be_read_and_chosen(service, rest, own):
    """Which `lora_alpha` is used can be read, and chosen for a model or for the server."""
    metadata = {"lora_alpha": "8"}
    usual, chosen = new_tc(service, seed=13), new_tc(service, seed=13, user_metadata=metadata)
    assert adapter_of(usual)[1]["lora_alpha"] == 32 and adapter_of(chosen)[1]["lora_alpha"] == 8
    assert get(rest.get_training_run(chosen.model_id)).user_metadata == metadata
    ids = toks(10, 540)
    before = fwd(usual, ids)
    for model in (usual, chosen):
        step(model, [ce(ids)], lr=1e-4)
    moved = [float(np.abs(fwd(model, ids) - before).sum()) for model in (usual, chosen)]
    assert 3 < moved[0] / moved[1] < 5.3  # the same B, a quarter of the scale
    with pytest.raises(REFUSALS, match="lora_alpha"):
        new_tc(service, user_metadata={"lora_alpha": "-1"})
    tc = own.service().create_lora_training_client(base_model=MODEL, rank=4).result(timeout=TIMEOUT)
    path = get(tc.save_state(uniq("alpha"))).path
    assert archived(path, own.url, own.key)[1]["lora_alpha"] == ALPHA


def test_raw_topk_logprobs_for_losses_of_ones_own(trained):
    """Raw top-k log-probabilities can be had, and trained on, for custom losses such as distillation."""
    tc, ids = trained
    k = 20
    sampler = get(tc.save_weights_and_get_sampling_client())
    settings = params(max_tokens=1, temperature=0.3, top_p=0.5, top_k=2)
    top = get(sampler.sample(mi(ids), 1, settings, include_prompt_logprobs=True, topk_prompt_logprobs=k)).topk_prompt_logprobs[1:]
    targets = np.asarray([[token for token, _ in row] for row in top])
    wanted = np.asarray([[logprob for _, logprob in row] for row in top])
    assert targets.shape == (len(ids) - 1, k) and np.all(np.exp(wanted).sum(axis=1) <= 1 + 1e-4)
    assert np.all(np.diff(wanted, axis=1) <= 1e-6)
    weights = np.exp(wanted).astype(np.float32)
    datum = types.Datum(model_input=mi(ids[:-1]), loss_fn_inputs={"target_tokens": targets, "weights": weights})
    out = get(tc.forward([datum], "cross_entropy"))
    assert close(lps(out), wanted, TOL)
    assert np.isclose(out.metrics["loss:sum"], -(lps(out) * weights).sum(), rtol=1e-3)


def test_a_custom_loss_over_topk_logprobs(trained):
    """A custom loss written in Python sees the log-probabilities of k candidates at each position, and their gradient."""
    torch = pytest.importorskip("torch")
    tc, ids = trained
    targets = np.stack([ids[1:], toks(len(ids) - 1, 541)], axis=1)
    datum = types.Datum(model_input=mi(ids[:-1]), loss_fn_inputs={"target_tokens": targets})
    seen = []

    def loss(_data, logprobs):
        seen.append(tuple(logprobs[0].shape))
        return -(logprobs[0] * torch.tensor([0.75, 0.25])).sum(), {}

    own_norm = _norm_after(tc, lambda: tc.forward_backward_custom([datum], loss))
    weights = np.tile(np.asarray([[0.75, 0.25]], np.float32), (len(ids) - 1, 1))
    soft = types.Datum(model_input=mi(ids[:-1]), loss_fn_inputs={"target_tokens": targets, "weights": weights})
    assert seen[0] == targets.shape
    assert np.isclose(own_norm, _norm_after(tc, lambda: tc.forward_backward([soft], "cross_entropy")), rtol=1e-3)


def _norm_after(tc, backward) -> float:
    get(backward())
    return get(tc.optim_step(types.AdamParams(learning_rate=0.0))).metrics["grad_norm:l2"]


# ---- sampling ------------------------------------------------------------------------------------


def test_a_seed_neither_repeats_within_a_group_nor_is_ignored(base_sampler):
    """A seed makes a group of samples repeatable, and the samples of the group differ from each other."""
    draw = lambda seed: [
        tuple(s.tokens)
        for s in get(base_sampler.sample(mi(toks(8, 550)), 8, params(max_tokens=12, seed=seed, stop=[]))).sequences
    ]
    group = draw(7)
    assert len(set(group)) == 8
    assert draw(7) == group and not set(draw(8)) & set(group)
    assert not set(draw(None)) & set(draw(None))


def test_temperature_zero_is_greedy(base_sampler):
    """Temperature 0 is greedy: always the likeliest token, also with top_p and top_k and beside other requests."""
    ids, settings = toks(8, 560), {"max_tokens": 12, "temperature": 0.0, "stop": []}
    alone = get(base_sampler.sample(mi(ids), 1, params(**settings))).sequences[0].tokens
    scored = get(base_sampler.sample(mi(ids + alone), 1, params(max_tokens=1), include_prompt_logprobs=True, topk_prompt_logprobs=1))
    assert [row[0][0] for row in scored.topk_prompt_logprobs[len(ids):]] == alone
    wanted = [
        base_sampler.sample(mi(ids), 1, params(**settings, **more))
        for more in ({}, {"top_p": 0.3}, {"top_k": 50}, {"top_p": 0.9, "top_k": 3}, {"seed": 1}, {"seed": 2})
    ]
    others = [
        base_sampler.sample(mi(toks(5 + i, 561 + i)), 2, params(max_tokens=12, temperature=1.5, seed=i, stop=[]))
        for i in range(6)
    ]
    group = get(base_sampler.sample(mi(ids), 3, params(**settings))).sequences
    assert all(get(future).sequences[0].tokens == alone for future in wanted)
    assert all(sequence.tokens == alone for sequence in group)
    drawn = {tuple(s.tokens) for future in others for s in get(future).sequences}
    assert len(drawn) == 12  # the others were sampled


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_p": 0.8, "top_k": 40}])
def test_sampled_logprobs_are_those_of_a_forward_pass(trained, settings):
    """Log-probabilities at sampling equal those that training and scoring compute for the same tokens."""
    tc, ids = trained
    sampler = get(tc.save_weights_and_get_sampling_client())
    drawn = get(sampler.sample(mi(ids[:6]), 4, params(max_tokens=10, seed=3, stop=[], **settings))).sequences
    for sequence in drawn:
        whole = ids[:6] + list(sequence.tokens)
        assert close(sequence.logprobs, fwd(tc, whole)[5:], TOL)
        assert close(sequence.logprobs, clogp(sampler, whole)[6:], TOL)


# ---- models and adapters of one's own --------------------------------------------------------------


def reference() -> tuple[list[int], np.ndarray]:
    """Tokens, and what torch says of them with the fixture model."""
    sequence = json.loads((FIXTURES / "arch/llama3/reference.json").read_text())["sequences"][0]
    return sequence["tokens"] + sequence["targets"][-1:], load_file(FIXTURES / "arch/llama3/reference.safetensors")["logprobs.0"]


def test_a_base_model_of_ones_own(own):
    """A base model from a folder of your own can be served, trained and sampled."""
    service = own.service()
    ids, wanted = reference()
    sampler = service.create_sampling_client(base_model=MODEL).result(timeout=TIMEOUT)
    assert close(clogp(sampler, ids)[1:], wanted, TOL)
    tc = service.create_lora_training_client(base_model=MODEL, rank=4, seed=1).result(timeout=TIMEOUT)
    first, _ = step(tc, [ce(ids)], lr=1e-2)
    second, _ = step(tc, [ce(ids)], lr=1e-2)
    assert second.metrics["loss:sum"] < first.metrics["loss:sum"]


@pytest.mark.parametrize("adapter", ["qv_rslora", "head"])
def test_an_adapter_of_ones_own(own, adapter):
    """An adapter that PEFT trained elsewhere can be imported while the server runs, then sampled and trained on."""
    imported = own.import_adapter(FIXTURES / "peft" / adapter, "--name", uniq(adapter))
    service = own.service()
    ids, base = reference()
    wanted = np.asarray(json.loads((FIXTURES / "peft/logprobs.json").read_text())[adapter])
    assert not close(wanted, base, 0.1)
    sampler = service.create_sampling_client(model_path=imported["path"]).result(timeout=TIMEOUT)
    assert close(clogp(sampler, ids)[1:], wanted, TOL)
    tc = service.create_training_client_from_state(imported["path"]).result(timeout=TIMEOUT)
    assert close(fwd(tc, ids), wanted, TOL)
    first, _ = step(tc, [ce(ids)], lr=1e-2)
    second, _ = step(tc, [ce(ids)], lr=1e-2)
    assert second.metrics["loss:sum"] < first.metrics["loss:sum"]
    listed = service.create_rest_client().list_user_checkpoints(limit=100).result(timeout=TIMEOUT).checkpoints
    sizes = {c.tinker_path: c.size_bytes for c in listed}
    assert sizes[imported["path"]] == imported["sizeBytes"] > 0
    with pytest.raises(REFUSALS, match="no optimizer state"):
        service.create_training_client_from_state_with_optimizer(imported["path"]).result(timeout=TIMEOUT)


def test_an_imported_adapter_has_an_owner_and_a_misfit_is_refused(own):
    """An imported adapter belongs to whom it was imported for; what cannot be imported is refused in words."""
    other = own.import_adapter(FIXTURES / "peft/qv_rslora", "--owner", "somebody", "--name", uniq("other"))
    with pytest.raises(tinker.NotFoundError):
        own.service().create_sampling_client(model_path=other["path"]).result(timeout=TIMEOUT)
    refused = own.run("checkpoint", "import", str(FIXTURES / "peft/dora"), *own.model_option, status=1)
    assert refused.stderr.startswith("anneal: error: adapter_config.json: use_dora") and refused.stderr.count("\n") == 1


def archived(path: str, url: str = BASE_URL, key: str | None = None) -> tuple[dict, dict]:
    """Tensors and config in the archive of a checkpoint, as a browser would fetch it."""
    run, kind, name = path.removeprefix("tinker://").split("/")
    headers = {"X-API-Key": key or os.environ["TINKER_API_KEY"]}
    link = httpx.get(f"{url}/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/archive", headers=headers).json()["url"]
    with tarfile.open(fileobj=io.BytesIO(httpx.get(link, timeout=60).content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    return load(files["adapter_model.safetensors"]), json.loads(files["adapter_config.json"])


def base_shapes() -> dict[str, list[int]]:
    folder = os.environ.get("BASE_MODEL_DIR")
    if not folder:
        pytest.skip("set BASE_MODEL_DIR to the served checkpoint folder")
    shapes = {}
    for file in Path(folder).glob("*.safetensors"):
        content = file.open("rb")
        (size,) = struct.unpack("<Q", content.read(8))
        shapes |= {name: entry["shape"] for name, entry in json.loads(content.read(size)).items() if name != "__metadata__"}
    shapes.setdefault("lm_head.weight", shapes["model.embed_tokens.weight"])
    return shapes


def test_adapters_can_be_served_elsewhere(trained):
    """A downloaded adapter can be served elsewhere: PEFT's file names, tensor names and config, the head's included."""
    tc, _ = trained
    tensors, config = archived(get(tc.save_weights_for_sampler(uniq("elsewhere"))).path)
    assert config["peft_type"] == "LORA" and config["r"] == 8 and config["lora_alpha"] == 32
    assert config["base_model_name_or_path"] == BASE_MODEL and config["bias"] == "none" and config["task_type"] == "CAUSAL_LM"
    shapes = base_shapes()
    prefix = "base_model.model."
    modules = {name.removeprefix(prefix).rsplit(".lora_", 1)[0] for name in tensors}
    assert all(name.startswith(prefix) for name in tensors) and "lm_head" in modules
    assert {module.rsplit(".", 1)[-1] for module in modules} == set(config["target_modules"])
    for module in modules:
        b, a = tensors[f"{prefix}{module}.lora_B.weight"], tensors[f"{prefix}{module}.lora_A.weight"]
        assert a.shape[0] == b.shape[1] == 8
        assert [b.shape[0], a.shape[1]] == shapes[f"{module}.weight"]


# ---- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_are_deleted_in_bulk(service, rest):
    """Many checkpoints can be deleted at once: those of a run, or those that are named."""
    tc, other = new_tc(service, rank=4), new_tc(service, rank=4)
    for _ in range(3):
        get(tc.save_state(uniq("bulk")))
    get(tc.save_weights_for_sampler(uniq("bulk")))
    kept = get(other.save_state(uniq("bulk"))).path
    assert len(get(rest.list_checkpoints(tc.model_id)).checkpoints) == 4
    tinker_command("checkpoint", "delete", "--run-id", tc.model_id, "--type", "weights", "--yes")
    assert [c.checkpoint_type for c in get(rest.list_checkpoints(tc.model_id)).checkpoints] == ["sampler"]
    named = [get(tc.save_state(uniq("bulk"))).path for _ in range(2)]
    tinker_command("checkpoint", "delete", *named, "--yes")
    assert len(get(rest.list_checkpoints(tc.model_id)).checkpoints) == 1
    assert [c.tinker_path for c in get(rest.list_checkpoints(other.model_id)).checkpoints] == [kept]


def test_an_expiry_is_extended_and_an_ephemeral_checkpoint_kept(service, rest):
    """The life of a checkpoint can be extended, and an ephemeral checkpoint can be kept for ever."""
    tc = new_tc(service, rank=4)
    path = get(tc.save_state(uniq("ephemeral"), ttl_seconds=3600)).path

    def seconds_left() -> float | None:
        (found,) = get(rest.list_checkpoints(tc.model_id)).checkpoints
        if found.expires_at is None:
            return None
        at = found.expires_at if isinstance(found.expires_at, datetime) else datetime.fromisoformat(found.expires_at)
        return (at - datetime.now(at.tzinfo)).total_seconds()

    assert 3000 < seconds_left() <= 3600
    get(rest.set_checkpoint_ttl_from_tinker_path(path, 86_400))
    assert 85_000 < seconds_left() <= 86_400
    get(rest.set_checkpoint_ttl_from_tinker_path(path, None))
    assert seconds_left() is None


# ---- OpenAI's API --------------------------------------------------------------------------------


def test_the_openai_endpoint_honours_the_adapter(trained):
    """The OpenAI-compatible endpoint answers with the adapter that `model` names."""
    tc, ids = trained
    path = get(tc.save_weights_for_sampler(uniq("openai"))).path

    def scores(model: str) -> np.ndarray:
        body = {"model": model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
        answer = raw("POST", "/v1/completions", body)
        assert answer.status_code == 200, answer.text
        return np.asarray(answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:])

    adapted, base = scores(path), scores(BASE_MODEL)
    assert close(adapted, fwd(tc, ids), TOL)
    assert np.abs(adapted - base).max() > 0.5
    body = {"prompt": ids[:4], "max_tokens": 8, "temperature": 0}
    texts = [raw("POST", "/v1/completions", body | {"model": name}).json()["choices"][0]["text"] for name in (path, BASE_MODEL)]
    assert texts[0] != texts[1]
