"""The examples in Python and TypeScript, run as a user runs them."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compat_support import need_server

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def example(name: str, *args: str) -> str:
    need_server()
    program = sys.executable if name.endswith(".py") else os.environ.get("ANNEAL_NODE", "node")
    command = [program, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


def numbers(pattern: str, output: str) -> list[float]:
    return [float(x) for x in re.findall(pattern, output)]


@pytest.fixture(scope="module")
def fine_tuned() -> str:
    return example("sft.py")


@pytest.mark.timeout(1200)
def test_sft_teaches_the_tasks(fine_tuned):
    losses = numbers(r"loss (\d+\.\d+)", fine_tuned)
    assert len(losses) == 40 and sum(losses[-5:]) < 0.5 * sum(losses[:5])
    before, after = numbers(r"(\d+\.\d)% (?:before|after)", fine_tuned)
    assert before <= 10 and after >= 40


@pytest.mark.timeout(600)
def test_distillation_lowers_the_loss_towards_the_teacher(fine_tuned):
    teacher = re.search(r"sampler checkpoint: (\S+)", fine_tuned)[1]
    losses = numbers(r"loss (\d+\.\d+)", example("distill.py", teacher, "--steps", "8"))
    assert len(losses) == 8 and sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.timeout(600)
def test_rl_samples_scores_and_trains():
    output = example("rl.py", "--steps", "2", "--questions", "4", "--group", "4")
    assert len(numbers(r"reward (\d+\.\d+)", output)) == 2
    assert "training checkpoint: tinker://" in output


@pytest.mark.timeout(600)
def test_dpo_widens_the_margin():
    pytest.importorskip("torch")
    output = example("dpo.py", "--steps", "4")
    margins = numbers(r"margin ([+-]\d+\.\d+)", output)
    assert abs(margins[0]) < 0.05 and margins[-1] > margins[0]


@pytest.mark.timeout(600)
def test_sft_in_typescript():
    losses = numbers(r"loss:sum (\d+\.\d+)", example("sft.ts", "12"))
    assert len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.timeout(600)
def test_rl_in_typescript():
    output = example("rl.ts", "1")
    assert len(numbers(r"reward (\d+\.\d+)", output)) == 1 and "training checkpoint: tinker://" in output


@pytest.mark.timeout(600)
def test_dpo_in_typescript():
    margins = numbers(r"margin (-?\d+\.\d+)", example("dpo.ts", "4"))
    assert abs(margins[0]) < 0.05 and margins[-1] > margins[0]
