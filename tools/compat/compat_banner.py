"""The programs that the server prints at its start work when they are pasted."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compat_support import need_server

ROOT = Path(__file__).parent.parent.parent


def snippet(first: str, last: str) -> str:
    need_server()
    banner = os.environ.get("ANNEAL_BANNER")
    if not banner:
        pytest.skip("set ANNEAL_BANNER to a file with what the server printed")
    found = re.search(rf"^{first}.*?^{last}[^\n]*$", Path(banner).read_text(), re.S | re.M)
    assert found, "the banner holds no such program"
    return found[0]


def output(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_snippet(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(snippet("import tinker", "print"))
    assert "Paris" in output([sys.executable, str(Path(__file__).parent / "run_program.py"), str(program)], "")


def test_typescript_snippet():
    node = os.environ.get("ANNEAL_NODE", "node")
    assert "Paris" in output([node, "--input-type=module", "-"], snippet(r"import \{ ServiceClient", "console"))
