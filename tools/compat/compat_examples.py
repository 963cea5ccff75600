"""The examples in Python and TypeScript, in a short form, run as a user runs them, and read as a user reads them."""
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
    python = [sys.executable, str(Path(__file__).parent / "run_program.py")]
    program = python if name.endswith(".py") else [os.environ.get("ANNEAL_NODE", "node")]
    command = [*program, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


def numbers(pattern: str, output: str) -> list[float]:
    return [float(x) for x in re.findall(pattern, output)]


def test_there_is_nothing_else():
    """Each example has a test here."""
    names = {path.stem for path in EXAMPLES.glob("*.*")} - {"common"}
    assert names == {"sft", "grpo-arithmetic", "dpo", "distill"}
    assert {path.name for path in EXAMPLES.glob("*.*")} == {f"{name}.{end}" for name in names | {"common"} for end in ("py", "ts")}


@pytest.fixture(scope="module")
def fine_tuned() -> str:
    return example("sft.py")


@pytest.mark.timeout(1200)
def test_sft_teaches_the_tasks(fine_tuned):
    losses = numbers(r"loss (\d+\.\d+)", fine_tuned)
    assert len(losses) == 40 and sum(losses[-5:]) < 0.5 * sum(losses[:5])
    before, after = numbers(r"(\d+\.\d)% (?:before|after)", fine_tuned)
    assert before <= 10 and after >= 40


@pytest.mark.timeout(900)
def test_distillation_draws_the_student_to_the_teacher(fine_tuned):
    teacher = re.search(r"sampler checkpoint: (\S+)", fine_tuned)[1]
    output = example("distill.py", teacher, "--steps", "8")
    kl = numbers(r"kl (-?\d+\.\d+)", output)
    assert len(kl) == 8 and min(kl) >= -1e-3 and sum(kl[-3:]) < 0.8 * sum(kl[:3])
    teachers, students = numbers(r"(\d+\.\d)%", output)
    assert teachers >= 40 and students >= 10  # the base model has none right


@pytest.mark.timeout(900)
def test_grpo_raises_the_reward():
    output = example("grpo-arithmetic.py", "--steps", "5")
    rewards = numbers(r"reward (\d+\.\d+)", output)
    assert len(rewards) == 5 and sum(rewards[-2:]) > sum(rewards[:2])
    assert "training checkpoint: tinker://" in output


@pytest.mark.timeout(900)
def test_dpo_prefers_chosen_answers_to_questions_never_seen():
    output = example("dpo.py", "--warm-up", "2", "--steps", "6")
    margins = numbers(r"margin ([+-]\d+\.\d+)", output)
    assert len(margins) == 6 and margins[-1] > margins[0]
    accuracies = numbers(r"held-out accuracy: (\d\.\d+)", output)
    assert len(accuracies) == 2 and accuracies[1] >= 0.65  # two of three tasks at once; sums take the whole run


@pytest.mark.timeout(600)
def test_sft_in_typescript():
    output = example("sft.ts", "--steps", "8")
    assert len(numbers(r"loss (\d+\.\d+)", output)) == 8
    before, after = numbers(r"(\d+\.\d)% (?:before|after)", output)
    assert after > before


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name, options, pattern, count",
    [
        ("dpo", ["--warm-up", "0", "--steps", "3"], r"loss (\d+\.\d+)", 3),
        ("distill", ["--teacher-steps", "4", "--steps", "4"], r"kl (-?\d+\.\d+)", 4),
    ],
)
def test_in_typescript_what_is_trained_on_falls(name, options, pattern, count):
    values = numbers(pattern, example(f"{name}.ts", *options))[-count:]
    assert len(values) == count and values[-1] < values[0]


@pytest.mark.timeout(600)
def test_grpo_in_typescript():
    output = example("grpo-arithmetic.ts", "--steps", "2", "--questions", "4")
    rewards = numbers(r"reward (\d+\.\d+)", output)
    assert len(rewards) == 2 and max(rewards) > 0
    assert "training checkpoint: tinker://" in output
