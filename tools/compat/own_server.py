"""A second server of this checkout, on a folder of one's own: a tiny model and settings that the main one does not have."""
from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import tinker

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "packages" / "engine" / "fixtures"
MODEL, ALPHA = "my-own", 24


class OwnServer:
    """Serves a model of packages/engine/fixtures, by default arch/llama3/model as `my-own`, with `--lora-alpha 24`."""

    def __init__(self, folder: Path, name: str = MODEL, model: str = "arch/llama3/model", *options: str):
        self.data_dir = folder / "data"
        self.key = f"tml-{secrets.token_hex(16)}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.model_option = ("--model", f"{name}={FIXTURES / model}")
        self.log = (folder / "log.txt").open("w+")
        command = [
            *anneal_command(), "serve", "--host", "127.0.0.1", "--port", str(self.port),
            "--data-dir", str(self.data_dir), "--lora-alpha", str(ALPHA), *self.model_option, *options,
        ]
        env = os.environ | {"ANNEAL_API_KEY": self.key}
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        for _ in range(1200):
            try:
                if httpx.get(f"{self.url}/api/v1/healthz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.output()
            time.sleep(0.1)
        raise AssertionError(self.output())

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def service(self) -> tinker.ServiceClient:
        return tinker.ServiceClient(base_url=self.url, api_key=self.key)

    def run(self, *args: str, status: int = 0) -> subprocess.CompletedProcess:
        """An `anneal` command on this server's data folder."""
        command = [*anneal_command(), *args, "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def import_adapter(self, folder: Path, *options: str) -> dict:
        return json.loads(self.run("checkpoint", "import", str(folder), *self.model_option, *options, "--json").stdout)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()


def anneal_command() -> list[str]:
    if "ANNEAL_CLI" not in os.environ:
        pytest.skip("set ANNEAL_CLI to the built command")
    return [os.environ.get("ANNEAL_NODE", "node"), os.environ["ANNEAL_CLI"]]
