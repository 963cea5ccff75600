"""Every public method of the SDK's clients is accounted for, and so is what users ask for; docs/compatibility.md says how.

`python compat_surface.py` writes the document's tables anew.
"""
from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import tinker

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "compatibility.md"
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


def asked_for() -> dict[str, str]:
    """Test name → what users ask for, which is the first line of its docstring."""
    module = ast.parse((HERE / "compat_complaints.py").read_text())
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name: (ast.get_docstring(test) or "").split("\n")[0] for test in tests}


def complaints() -> str:
    rows = [f"| {what.removesuffix('.')} | `{name}` |" for name, what in asked_for().items()]
    return "\n".join(["| what | test in compat_complaints.py |", "| --- | --- |", *rows])


def document() -> str:
    text = DOCUMENT.read_text()
    for name, content in {"complaints": complaints(), "methods": table()}.items():
        start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def test_every_public_method_is_listed():
    for client, methods in METHODS.items():
        assert list(methods) == public_methods(client), client


def test_every_named_test_exists():
    named = {how for methods in METHODS.values() for how in methods.values() if isinstance(how, str)}
    assert named <= set(declared_tests())


def test_every_complaint_is_told_in_a_sentence():
    assert all(what.endswith(".") for what in asked_for().values()), asked_for()


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "run: python tools/compat/compat_surface.py"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
