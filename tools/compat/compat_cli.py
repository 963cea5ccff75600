"""The `tinker` command against the server, as a user types it."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from compat_support import BASE_MODEL, ce, get, need_server, new_tc, step, toks, uniq


def tinker_command(*args: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tinker.cli", "--format", "json", *args]
    options = {"capture_output": True, "text": True, "timeout": 240, "env": os.environ | {"NO_COLOR": "1"}}
    done = subprocess.run(command, **options)
    if done.returncode < 0:  # the SDK's native transport now and then aborts while the interpreter exits
        done = subprocess.run(command, **options)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def answer(*args: str):
    return json.loads(tinker_command(*args).stdout)


@pytest.fixture(scope="module")
def saved(service):
    tc = new_tc(service, rank=4, user_metadata={"who": "cli"})
    step(tc, [ce(toks(8, 300))], lr=1e-2)
    return {
        "run": tc.model_id,
        "training": get(tc.save_state(uniq("cli"))).path,
        "sampler": get(tc.save_weights_for_sampler(uniq("cli"))).path,
    }


def entry(path: str) -> dict:
    listed = answer("checkpoint", "list", "--limit", "0")["checkpoints"]
    return next(c for c in listed if c["tinker_path"] == path)


def test_model_list():
    need_server()
    assert BASE_MODEL in json.dumps(answer("model", "list"))


def test_run_list_and_info(saved):
    assert saved["run"] in [r["training_run_id"] for r in answer("run", "list", "--limit", "0")["runs"]]
    info = answer("run", "info", saved["run"])
    assert info["training_run_id"] == saved["run"] and info["base_model"] == BASE_MODEL
    assert info["lora_rank"] == 4


def test_checkpoint_list_and_info(saved):
    of_run = answer("checkpoint", "list", "--run-id", saved["run"])["checkpoints"]
    assert {c["tinker_path"] for c in of_run} == {saved["training"], saved["sampler"]}
    assert answer("checkpoint", "info", saved["training"])["tinker_path"] == saved["training"]


def test_checkpoint_publish_and_unpublish(saved):
    tinker_command("checkpoint", "publish", saved["sampler"])
    assert entry(saved["sampler"])["public"] is True
    tinker_command("checkpoint", "unpublish", saved["sampler"])
    assert entry(saved["sampler"])["public"] is False


def test_checkpoint_set_ttl(saved):
    tinker_command("checkpoint", "set-ttl", saved["sampler"], "--ttl", "7200")
    assert entry(saved["sampler"])["expires_at"]
    tinker_command("checkpoint", "set-ttl", saved["sampler"], "--remove")
    assert not entry(saved["sampler"])["expires_at"]


def test_checkpoint_download(saved, tmp_path):
    tinker_command("checkpoint", "download", saved["training"], "--output", str(tmp_path))
    files = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    config = json.loads(next(tmp_path.rglob("adapter_config.json")).read_text())
    assert config["r"] == 4


def test_checkpoint_delete(service):
    tc = new_tc(service, rank=4)
    path = get(tc.save_state(uniq("cli"))).path
    tinker_command("checkpoint", "delete", path, "--yes")
    left = answer("checkpoint", "list", "--run-id", tc.model_id)["checkpoints"]
    assert path not in [c["tinker_path"] for c in left]


def test_errors_are_one_line_and_status_one():
    need_server()
    done = tinker_command("run", "info", "no-such-run", check=False)
    assert done.returncode == 1 and done.stderr.strip().startswith("Error:")
