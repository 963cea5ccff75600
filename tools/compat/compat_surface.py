"""Every public method of the SDK's clients is accounted for, and docs/compatibility.md says how.

`python compat_surface.py` writes the document's table anew.
"""
from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import tinker

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "compatibility.md"
START, END = "<!-- methods: start -->", "<!-- methods: end -->"
METHODS: dict[str, dict[str, str | dict[str, str]]] = json.loads((HERE / "methods.json").read_text())


def public_methods(name: str) -> list[str]:
    members = inspect.getmembers(getattr(tinker, name), callable)
    return [method for method, _ in members if not method.startswith("_")]


def declared_tests() -> dict[str, str]:
    """Test name → file."""
    found = {}
    for path in sorted(HERE.glob("compat_*.py")):
        found |= dict.fromkeys(re.findall(r"^def (test_\w+)", path.read_text(), re.M), path.name)
    return found


def table() -> str:
    tests, lines, served, total = declared_tests(), [], 0, 0
    for client, methods in METHODS.items():
        lines += [f"\n### {client}\n", "| method | |", "| --- | --- |"]
        for method, how in methods.items():
            total += 1
            if isinstance(how, str):
                served += 1
                lines.append(f"| `{method}` | `{how}` ({tests[how]}) |")
            elif "client_only" in how:
                served += 1
                lines.append(f"| `{method}` | no request: {how['client_only']} |")
            else:
                kind, reason = next(iter(how.items()))
                lines.append(f"| `{method}` | {kind.replace('_', ' ')}: {reason} |")
    head = f"{served} of {total} public methods of `tinker` {tinker.__version__} work; each row names the test that shows it."
    return "\n".join([head, *lines])


def document() -> str:
    text = DOCUMENT.read_text()
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


def test_every_public_method_is_listed():
    for client, methods in METHODS.items():
        assert list(methods) == public_methods(client), client


def test_every_named_test_exists():
    named = {how for methods in METHODS.values() for how in methods.values() if isinstance(how, str)}
    assert named <= set(declared_tests())


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "run: python tools/compat/compat_surface.py"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
