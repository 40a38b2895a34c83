"""The two limits that no linter checks: lines of a module, and lines of a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "streaming", "guard", "providers", "simulator", "server", "clients", "ui", "evaluation", "benchmarks",
    "locustfiles",
)  # fmt: skip
MODULES = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40


@pytest.mark.parametrize("package", ["app and settings", *PACKAGES])
def test_module_is_short_enough_to_have_one_subject(package: str) -> None:
    long = {
        path.relative_to(ROOT): lines
        for path in _modules_of(package)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE_LINES
    }
    assert long == {}


@pytest.mark.parametrize("package", ["app and settings", *PACKAGES])
def test_function_is_short_enough_to_be_read_at_once(package: str) -> None:
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": lines
        for path in _modules_of(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def _modules_of(package: str) -> list[Path]:
    result = [p for p in MODULES if p.is_relative_to(ROOT / package) or (package not in PACKAGES and p.parent == ROOT)]
    assert result, package
    return result
