"""Rules of the tests that no linter checks: no constant of a module is patched."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def patched_constants(source: str) -> list[str]:
    """Return the names of constants and private attributes that a test replaces with `monkeypatch.setattr`."""
    result = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        names = [part.value for part in node.args[:2] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        name = names[0].rpartition(".")[2] if names else ""
        if name.isupper() or (name.startswith("_") and not name.startswith("__")):
            result.append(name)
    return result


def test_no_test_patches_a_constant_or_a_private_attribute() -> None:
    paths = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    assert len(paths) > 100
    assert {path.name: names for path in paths if (names := patched_constants(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ('monkeypatch.setattr(module, "MAX_BYTES", 3)', ["MAX_BYTES"]),
        ('monkeypatch.setattr("package.module.TIMEOUT_S", 3)', ["TIMEOUT_S"]),
        ('patched.setattr(thing, "_inner", None)', ["_inner"]),
        ('monkeypatch.setattr(builtins, "__import__", None)', []),
        ('monkeypatch.setattr(os, "cpu_count", lambda: 2)', []),
        ('monkeypatch.setenv("NAME", "value")', []),
    ],
)
def test_patched_constants_are_found(call: str, names: list[str]) -> None:
    assert patched_constants(call) == names
