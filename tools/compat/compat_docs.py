"""The code blocks of the documentation, run as a reader would: those of a page in one language are one program."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from compat_support import BASE_URL, need_server

ROOT = Path(__file__).parent.parent.parent
NODE = os.environ.get("ANNEAL_NODE", "node")
RUN_PROGRAM = Path(__file__).parent / "run_program.py"
BLOCKS = subprocess.run([NODE, ROOT / "tools" / "testing" / "doc-blocks.mjs"], capture_output=True, text=True, check=True)
PROGRAMS = json.loads(BLOCKS.stdout)["programs"]

# What the pages show -> what it is here.
STAND_INS = {
    "http://127.0.0.1:8123": BASE_URL,
    "http://127.0.0.1:8000": BASE_URL,
    "tml-...": os.environ.get("TINKER_API_KEY", ""),
    "tml-…": os.environ.get("TINKER_API_KEY", ""),
}


def command_of(language: str, file: Path) -> list[str]:
    if language == "python":
        return [sys.executable, str(RUN_PROGRAM), str(file)]
    if language == "sh":
        return ["bash", "-euo", "pipefail", str(file)]
    return [NODE, "--disable-warning=ExperimentalWarning", str(file)]


@pytest.fixture
def folder(tmp_path, request):
    """Empty; for TypeScript it lies in the repository, since its packages are found from there."""
    if request.node.callspec.params["program"]["language"] != "ts":
        yield tmp_path
        return
    (ROOT / "dist").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "dist") as inside:
        yield Path(inside)


def with_anneal(folder: Path) -> dict[str, str]:
    """The environment of a user who has installed the command `anneal`."""
    command = folder / "anneal"
    command.write_text(f'#!/bin/sh\nexec "{NODE}" "{os.environ["ANNEAL_CLI"]}" "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program['document']}-{program['language']}")
def test_blocks_run(program, folder):
    need_server()
    text = program["text"]
    for shown, real in STAND_INS.items():
        text = text.replace(shown, real)
    file = folder / f"program.{program['language']}"
    file.write_text(text)
    command = command_of(program["language"], file)
    done = subprocess.run(command, cwd=folder, env=with_anneal(folder), capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
