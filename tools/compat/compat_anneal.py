"""The `anneal` command against the server: runs, checkpoints, keys, and its errors."""
from __future__ import annotations

import json
import os
import subprocess
import time

import httpx
import pytest
from compat_support import BASE_MODEL, BASE_URL, ce, get, need_server, new_tc, raw, step, toks, uniq


def anneal(*args: str, status: int = 0) -> subprocess.CompletedProcess:
    need_server()
    if "ANNEAL_CLI" not in os.environ:
        pytest.skip("set ANNEAL_CLI to the built command")
    command = [os.environ.get("ANNEAL_NODE", "node"), os.environ["ANNEAL_CLI"], *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def answer(*args: str):
    return json.loads(anneal(*args, "--json").stdout)


@pytest.fixture(scope="module")
def saved(service):
    tc = new_tc(service, rank=4, user_metadata={"who": "anneal"})
    step(tc, [ce(toks(8, 400))], lr=1e-2)
    return {
        "run": tc.model_id,
        "training": get(tc.save_state(uniq("anneal"))).path,
        "sampler": get(tc.save_weights_for_sampler(uniq("anneal"))).path,
    }


def test_model_list():
    assert BASE_MODEL in [m["model_name"] for m in answer("model", "list")["models"]]


def test_runs(saved):
    assert saved["run"] in [r["training_run_id"] for r in answer("run", "list")["runs"]]
    info = answer("run", "info", saved["run"])
    assert info["base_model"] == BASE_MODEL and info["user_metadata"] == {"who": "anneal"}
    assert saved["run"] in anneal("run", "list").stdout


def test_checkpoints(saved):
    listed = answer("checkpoint", "list", "--run", saved["run"])["checkpoints"]
    assert {c["tinker_path"] for c in listed} == {saved["training"], saved["sampler"]}
    info = answer("checkpoint", "info", saved["training"])
    assert info["checkpoint_type"] == "training" and info["weights"]["lora_rank"] == 4


def test_publish_ttl_and_delete(service):
    tc = new_tc(service, rank=4)
    path = get(tc.save_state(uniq("anneal"))).path
    anneal("checkpoint", "publish", path)
    assert answer("checkpoint", "info", path)["public"] is True
    anneal("checkpoint", "unpublish", path)
    assert answer("checkpoint", "info", path)["public"] is False
    anneal("checkpoint", "set-ttl", path, "--ttl", "7200")
    assert answer("checkpoint", "info", path)["expires_at"]
    anneal("checkpoint", "set-ttl", path, "--remove")
    assert not answer("checkpoint", "info", path).get("expires_at")
    anneal("checkpoint", "delete", path)
    assert "no checkpoint" in anneal("checkpoint", "info", path, status=1).stderr


def test_download(saved, tmp_path):
    folder = tmp_path / "adapter"
    files = answer("checkpoint", "download", saved["sampler"], "--output", str(folder))["files"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files) == {p.name for p in folder.iterdir()}
    assert "exists already" in anneal("checkpoint", "download", saved["sampler"], "-o", str(folder), status=2).stderr


def test_keys_work_at_once_and_are_revoked():
    need_server()
    if "ANNEAL_DATA_DIR" not in os.environ:
        pytest.skip("set ANNEAL_DATA_DIR to the server's data folder")
    made = answer("keys", "create", "--owner", uniq("owner"), "--label", "from a test")
    assert made["key"].startswith("tml-")
    assert made["id"] in [k["id"] for k in answer("keys", "list")["keys"]]
    assert made["key"] not in anneal("keys", "list").stdout
    assert answer("run", "list", "--api-key", made["key"])["runs"] == []
    anneal("keys", "revoke", made["id"])
    for _ in range(20):  # the server trusts a key that it has just seen for a few seconds
        refused = httpx.get(f"{BASE_URL}/api/v1/training_runs", headers={"X-API-Key": made["key"]}).status_code == 401
        if refused:
            break
        time.sleep(0.5)
    assert refused
    assert "no key of this server" in anneal("run", "list", "--api-key", made["key"], status=1).stderr
    assert "no valid key" in anneal("keys", "revoke", made["id"], status=1).stderr


def test_errors_are_one_line():
    assert anneal("run", "info", "no-such-run", status=1).stderr.count("\n") == 1
    assert "--base-url" in anneal("run", "list", "--base-url", "http://127.0.0.1:1", status=1).stderr
    assert "three non-empty segments" in anneal("checkpoint", "info", "tinker://x", status=2).stderr
    assert "at least 3600" in anneal("checkpoint", "set-ttl", "tinker://a/weights/b", "--ttl", "5", status=2).stderr
    assert raw("GET", "/api/v1/healthz").status_code == 200
