"""The SDK's public methods that compat_open.py leaves out: async forms, REST, handles, sampling's extras."""
from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tinker
from compat_support import (
    BASE_MODEL, TIMEOUT, TOL, ce, close, clogp, fwd, get, lps, mi, need_server, new_tc, params, raw, step, toks, uniq,
)
from tinker import types


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


@pytest.fixture(scope="module")
def saved(service):
    """A model with one step behind it, its training and its sampler checkpoint, and its logprobs on `ids`."""
    tc, ids = new_tc(service, rank=4), toks(9, 200)
    step(tc, [ce(ids)], lr=1e-2)
    training = get(tc.save_state(uniq("methods"), user_metadata={"suite": "methods"})).path
    sampler = get(tc.save_weights_for_sampler(uniq("methods"))).path
    return {"tc": tc, "ids": ids, "training": training, "sampler": sampler, "logprobs": fwd(tc, ids)}


# ---- async forms ------------------------------------------------------------------------------


def test_training_through_async_methods(service):
    async def train():
        tc = await service.create_lora_training_client_async(base_model=BASE_MODEL, rank=4, seed=1)
        data = [ce(toks(8, 201))]
        before = await (await tc.forward_async(data, "cross_entropy"))
        backward = await tc.forward_backward_async(data, "cross_entropy")
        update = await tc.optim_step_async(types.AdamParams(learning_rate=1e-2))
        first, _ = await backward, await update
        after = await (await tc.forward_async(data, "cross_entropy"))
        info = await tc.get_info_async()
        return before, first, after, info, tc.model_id

    before, first, after, info, model_id = run(train())
    assert close(lps(before), lps(first), TOL)
    assert after.metrics["loss:sum"] < before.metrics["loss:sum"]
    assert info.model_id == model_id


def test_saving_and_loading_through_async_methods(service, saved):
    ids = saved["ids"]

    async def resume():
        plain = await service.create_training_client_from_state_async(saved["training"])
        full = await service.create_training_client_from_state_with_optimizer_async(saved["training"])
        again = await (await plain.save_state_async(uniq("again")))
        await (await full.load_state_async(again.path))
        await (await full.load_state_with_optimizer_async(again.path))
        snapshot = await (await full.save_weights_for_sampler_async(uniq("again")))
        exported = await (await full.save_weights_external_async(uniq("again"), ttl_seconds=3600))
        live = await full.save_weights_and_get_sampling_client_async()
        named = await full.create_sampling_client_async(snapshot.path)
        return plain, full, live, named, exported

    plain, full, live, named, exported = run(resume())
    for model in (plain, full):
        assert close(fwd(model, ids), saved["logprobs"])
    for sampler in (live, named):
        assert close(clogp(sampler, ids)[1:], saved["logprobs"], TOL)
    assert exported.path.startswith("tinker://") and "/external_weights/" in exported.path


def test_sampling_through_async_methods(service):
    async def draw():
        sampler = await service.create_sampling_client_async(base_model=BASE_MODEL)
        prompt = mi(toks(6, 202))
        sample = await sampler.sample_async(prompt, 2, params(max_tokens=3, seed=3, stop=[]))
        logprobs = await sampler.compute_logprobs_async(prompt)
        return sample, logprobs, await sampler.get_base_model_async()

    sample, logprobs, name = run(draw())
    assert [len(s.tokens) for s in sample.sequences] == [3, 3]
    assert logprobs[0] is None and all(x <= 0 for x in logprobs[1:])
    assert name == BASE_MODEL


def test_rest_through_async_methods(service, rest, saved):
    run_id, path = saved["tc"].model_id, saved["sampler"]
    session = service.holder.get_session_id()

    async def ask():
        await rest.publish_checkpoint_from_tinker_path_async(path)
        public = {c.tinker_path: c.public for c in (await rest.list_checkpoints_async(run_id)).checkpoints}
        await rest.unpublish_checkpoint_from_tinker_path_async(path)
        await rest.set_checkpoint_ttl_from_tinker_path_async(path, 7200)
        listed = await rest.list_user_checkpoints_async(limit=1000)
        return {
            "public": public[path],
            "run": await rest.get_training_run_async(run_id),
            "by_path": await rest.get_training_run_by_tinker_path_async(path),
            "runs": await rest.list_training_runs_async(limit=100),
            "expires": {c.tinker_path: c.expires_at for c in listed.checkpoints}[path],
            "sessions": await rest.list_sessions_async(limit=100),
            "session": await rest.get_session_async(session),
        }

    got = run(ask())
    assert got["public"] is True and got["expires"] is not None
    assert got["run"].training_run_id == got["by_path"].training_run_id == run_id
    assert run_id in [r.training_run_id for r in got["runs"].training_runs]
    assert session in got["sessions"].sessions and run_id in got["session"].training_run_ids


# ---- REST ----------------------------------------------------------------------------------------


def test_lists_are_paged(rest, saved):
    first = get(rest.list_training_runs(limit=1))
    second = get(rest.list_training_runs(limit=1, offset=1))
    assert first.cursor.total_count == second.cursor.total_count
    if first.cursor.total_count > 1:
        assert first.training_runs[0].training_run_id != second.training_runs[0].training_run_id
    checkpoints = get(rest.list_user_checkpoints(limit=1))
    assert len(checkpoints.checkpoints) == 1 and checkpoints.cursor.total_count >= 2


def test_ttl_is_set_and_removed(rest, saved):
    path = saved["training"]
    expiry = lambda: next(
        c.expires_at for c in get(rest.list_checkpoints(saved["tc"].model_id)).checkpoints if c.tinker_path == path
    )
    assert expiry() is None
    get(rest.set_checkpoint_ttl_from_tinker_path(path, 7200))
    assert expiry() is not None
    get(rest.set_checkpoint_ttl_from_tinker_path(path, None))
    assert expiry() is None


def test_delete_by_run_and_id(service, rest):
    tc = new_tc(service, rank=4)
    names = [get(tc.save_state(uniq("gone"))).path.rsplit("/", 1)[1] for _ in range(2)]
    get(rest.delete_checkpoint(tc.model_id, f"weights/{names[0]}"))
    run(rest.delete_checkpoint_async(tc.model_id, f"weights/{names[1]}"))
    assert get(rest.list_checkpoints(tc.model_id)).checkpoints == []
    path = get(tc.save_weights_for_sampler(uniq("gone"))).path
    run(rest.delete_checkpoint_from_tinker_path_async(path))
    assert get(rest.list_checkpoints(tc.model_id)).checkpoints == []


def test_external_weights_urls_async(service, rest):
    tc = new_tc(service, rank=4)
    path = get(tc.save_weights_external(uniq("urls"), ttl_seconds=3600)).path
    urls = run(rest.get_external_weights_urls_async(path)).urls
    assert set(urls) >= {"adapter_model.safetensors", "adapter_config.json"}


def test_sampler_is_described(rest, service, saved):
    sampler = service.create_sampling_client(model_path=saved["sampler"]).result(timeout=TIMEOUT)
    for found in (
        get(rest.get_sampler(sampler._sampling_session_id)),
        run(rest.get_sampler_async(sampler._sampling_session_id)),
    ):
        assert found.base_model == BASE_MODEL and found.model_path == saved["sampler"]


def test_copy_weights(service, rest, saved, monkeypatch):
    monkeypatch.setenv("TINKER_PROJECT_ID", "project-one")
    copies = [
        get(service.copy_weights(saved["training"])),
        get(rest.copy_weights(saved["training"])),
        run(rest.copy_weights_async(saved["training"], "project-two", ttl_seconds=7200)),
    ]
    assert len({*copies, saved["training"]}) == 4
    resumed = service.create_training_client_from_state(copies[0]).result(timeout=TIMEOUT)
    assert close(fwd(resumed, saved["ids"]), saved["logprobs"])


def test_session_search_and_project(service, rest):
    session = service.holder.get_session_id()
    get(rest.assign_session_project(session, "project-one"))
    run(rest.assign_session_project_async(session, "project-two"))
    found = get(rest.search_sessions(types.SessionSearchRequest(session_id=session))).sessions
    assert [s.session_id for s in found] == [session] and found[0].project_id == "project-two"


def test_the_trace_of_a_session_can_be_opened(service, saved):
    session = get(service.create_rest_client().get_training_run(saved["tc"].model_id)).training_run_id.split(":")[0]
    rest = service.create_rest_client()
    urls = [get(rest.export_session_trace(session)), run(rest.export_session_trace_async(session))]
    for url in urls:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            events = json.load(response)["traceEvents"]
        begun = {event["id"] for event in events if event["ph"] == "b" and event["name"] == "optim_step"}
        ended = {event["id"] for event in events if event["ph"] == "e"}
        assert begun and begun <= ended


def test_storage_in_use_is_that_of_the_listed_checkpoints(service, saved):
    rest = service.create_rest_client()
    listed = sum(checkpoint.size_bytes for checkpoint in every_checkpoint(rest))
    for usage in (get(rest.get_current_checkpoint_storage_usage()), run(rest.get_current_checkpoint_storage_usage_async())):
        assert sum(item.size_bytes for item in usage.data) == listed > 0
        assert usage.effective_rate_usd_per_gigabyte_month is None


def every_checkpoint(rest):
    found, page = [], None
    while page is None or len(page) == 100:
        page = get(rest.list_user_checkpoints(limit=100, offset=len(found))).checkpoints
        found += page
    return found


def test_capabilities_through_the_service_client(service):
    names = [m.model_name for m in service.get_server_capabilities().supported_models]
    later = run(service.get_server_capabilities_async()).supported_models
    assert BASE_MODEL in names and [m.model_name for m in later] == names


def test_rest_client_of_a_service_sees_its_session(service):
    rest = service.create_rest_client()
    assert service.holder.get_session_id() in get(rest.list_sessions(limit=100)).sessions


# ---- clients ---------------------------------------------------------------------------------------


def test_tokenizers_of_both_clients(service, saved, tmp_path, monkeypatch):
    """A folder named like the model stands in for the hub, as the SDK documents."""
    folder = os.environ.get("BASE_MODEL_DIR")
    if not folder:
        pytest.skip("set BASE_MODEL_DIR to the served checkpoint folder")
    link = tmp_path / BASE_MODEL
    link.parent.mkdir(parents=True)
    link.symlink_to(Path(folder).resolve(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    sampler = service.create_sampling_client(base_model=BASE_MODEL).result(timeout=TIMEOUT)
    text = "Pig latin: ellohay, 42!"
    for client in (saved["tc"], sampler):
        tokenizer = client.get_tokenizer()
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_sampler_handle_reaches_the_same_sampler(service, saved):
    sampler = saved["tc"].create_sampling_client(saved["sampler"]).result(timeout=TIMEOUT)
    other = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())
    assert close(clogp(other, saved["ids"])[1:], clogp(sampler, saved["ids"])[1:])


def test_sampling_client_create(service, saved):
    sampler = get(tinker.SamplingClient.create(service.holder, model_path=saved["sampler"]))
    assert close(clogp(sampler, saved["ids"])[1:], saved["logprobs"], TOL)


def test_console_urls_and_telemetry_are_answered_by_the_client(service, rest, saved):
    session = service.holder.get_session_id()
    assert session in service.get_console_url() and session in saved["tc"].get_console_url()
    for client in (service, saved["tc"], rest):
        client.get_telemetry()


def test_a_finished_session_takes_no_new_work():
    need_server()
    client = tinker.ServiceClient()
    session = client.holder.get_session_id()
    tc = new_tc(client, rank=4)
    body = {
        "session_id": session, "model_seq_id": 7, "base_model": BASE_MODEL, "type": "create_model",
        "lora_config": {"rank": 4, "train_unembed": True, "train_mlp": True, "train_attn": True},
        "optimizer_config": {"type": "adamw"},
    }
    client.close("success").result(timeout=30)
    refused = raw("POST", "/api/v1/create_model", body)
    assert 400 <= refused.status_code < 500 and session in refused.text, refused.text
    runs = raw("GET", f"/api/v1/training_runs/{tc.model_id}")
    assert runs.status_code == 200  # what the session made stays readable


def test_load_state_with_optimizer_into_a_live_model(service, saved):
    other = new_tc(service, rank=4)
    get(other.load_state_with_optimizer(saved["training"]))
    resumed = service.create_training_client_from_state_with_optimizer(saved["training"]).result(timeout=TIMEOUT)
    for model in (other, resumed):
        step(model, [ce(saved["ids"])], lr=1e-2)
    assert close(fwd(other, saved["ids"]), fwd(resumed, saved["ids"]))


# ---- sampling's extras -----------------------------------------------------------------------------


def test_target_prompt_logprobs(base_sampler):
    ids = toks(7, 204)
    other = [t + 1 for t in ids[1:]]
    targets = np.stack([ids[1:], other], axis=1).astype(np.int64)
    tensor = types.TensorData(data=targets.ravel().tolist(), dtype="int64", shape=list(targets.shape))
    out = get(base_sampler.sample(mi(ids), 1, params(max_tokens=1), target_prompt_logprobs=tensor))
    scored = np.asarray(out.target_prompt_logprobs.data).reshape(targets.shape)
    assert close(scored[:, 0], clogp(base_sampler, ids)[1:], TOL)
    swapped = [clogp(base_sampler, ids[: i + 1] + [other[i]])[-1] for i in range(len(other))]
    assert close(scored[:, 1], swapped, TOL)


def test_prompt_alt_tokens(base_sampler):
    ids, k = toks(7, 205), 3
    out = get(base_sampler.sample(mi(ids), 1, params(max_tokens=1, seed=1), prompt_alt_tokens_k=k))
    tokens = np.asarray(out.prompt_alt_tokens.tokens.data).reshape(len(ids) - 1, k)
    drawn = np.asarray(out.prompt_alt_tokens.logprobs.data).reshape(len(ids) - 1, k)
    for i in (0, len(ids) - 2):
        for j in range(k):
            assert abs(clogp(base_sampler, ids[: i + 1] + [int(tokens[i, j])])[-1] - drawn[i, j]) <= TOL


def test_topk_sample_logprobs_hold_the_drawn_token_of_a_greedy_text(base_sampler):
    out = get(base_sampler.sample(mi(toks(6, 206)), 1, params(max_tokens=4, temperature=0.0, stop=[]), topk_sample_logprobs=5))
    sequence = out.sequences[0]
    for token, logprob, row in zip(sequence.tokens, sequence.logprobs, sequence.topk_logprobs):
        assert len(row) == 5 and row[0][0] == token and abs(row[0][1] - logprob) <= 1e-4


def test_custom_loss_through_the_async_method(service):
    torch = pytest.importorskip("torch")

    async def train():
        tc = await service.create_lora_training_client_async(base_model=BASE_MODEL, rank=4, seed=2)
        loss = lambda data, logprobs: (-sum(lp.sum() for lp in logprobs), {"n": float(len(data))})
        return await (await tc.forward_backward_custom_async([ce(toks(6, 207))], loss))

    out = run(train())
    assert out.metrics["n"] == 1.0 and torch.isfinite(torch.tensor(out.metrics["loss:sum"]))
