"""The conventions that a machine can keep: sizes, imports, clocks, docstrings, reasons."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    "streaming",
    "guard",
    "providers",
    "simulator",
    "server",
    "clients",
    "ui",
    "evaluation",
    "benchmarks",
    "locustfiles",
)
MACHINES = (
    "streaming/strategies/*.py", "streaming/retry.py", "streaming/thinking.py", "streaming/meter.py",
    "streaming/trace.py", "streaming/replay.py", "streaming/sse.py", "streaming/events.py", "simulator/schedules.py",
    "simulator/faults.py", "simulator/response_plans.py", "simulator/wires/*.py", "providers/*_wire.py",
        "providers/decoding/decoder.py",
    "providers/decoding/framing.py", "providers/decoding/framing.py", "providers/http/errors.py",
        "evaluation/metrics/cadence.py",
    "evaluation/metrics/experience.py", "streaming/retry.py", "streaming/http/response_parser.py", "ui/answer_view.py",
        "ui/html.py",
    "ui/history.py", "guard/text_normalization.py", "guard/secret_patterns.py", "guard/output_filter.py",
        "guard/validation.py",
    "guard/content_filter.py", "guard/budget.py", "clients/position.py", "clients/events.py", "clients/errors.py",
)  # fmt: skip
OWN = {*ROOMS, "app", "settings", "tests"}


def product() -> list[Path]:
    return sorted([*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))])


def all_files() -> list[Path]:
    return product() + sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Give the modules that a file imports, wherever in it; each file is read once, for all rules about imports."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def tops(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported_modules(path)}


def attributes(path: Path, owner: str) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
            yield node.attr


@pytest.mark.parametrize("path", all_files(), ids=name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    test = path.is_relative_to(ROOT / "tests") or path.is_relative_to(ROOT / "benchmarks")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= (400 if test else 250)
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno + 1 <= (60 if test else 40), node.name


def test_adapter_contract_stays_short() -> None:
    lines = sum(len((ROOT / "streaming" / file).read_text().splitlines()) for file in ("events.py", "adapter.py"))
    assert lines < 150


def test_streaming_imports_only_standard_library() -> None:
    for path in (ROOT / "streaming").rglob("*.py"):
        assert tops(path) <= {*sys.stdlib_module_names, "streaming"}, name(path)


HOMES = {
    "gradio": ("ui",),
    "fastapi": ("server",),
    "starlette": ("server",),
    "prometheus_client": ("server",),
    "redis": ("server", "guard"),
    "limits": ("guard",),
    "websockets": ("clients", "server/websocket_protocol.py"),
    "httpx2": ("clients", "providers"),
    "locust": ("locustfiles",),
    "pandas": ("evaluation", "ui"),
    "pyarrow": ("evaluation", "ui"),
    "plotly": ("evaluation", "ui"),
    "matplotlib": ("evaluation", "ui"),
    "markdown_it": ("evaluation",),
    "openai": ("providers",),
    "anthropic": ("providers",),
    "ollama": ("providers",),
    "xllamacpp": ("providers",),
    "uvicorn": ("server/uvicorn_server.py", "server/http_protocol.py", "server/websocket_protocol.py"),
    "argparse": ("app.py", "evaluation", "guard", "simulator", "benchmarks", "providers/__main__.py"),
}


@pytest.mark.parametrize("library", HOMES)
def test_library_imports_stay_in_allowed_packages(library: str) -> None:
    allowed = (*HOMES[library], "benchmarks")
    strangers = [name(p) for p in product() if library in tops(p) and not name(p).startswith(allowed)]
    assert strangers == []


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "ollama", "xllamacpp"])
def test_providers_import_without_sdk(sdk: str) -> None:
    code = f"import sys; sys.modules[{sdk!r}] = None; import providers, streaming.pipeline; assert providers.Providers"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_pure_modules_import_no_io() -> None:
    for pattern in MACHINES:
        found = list(ROOT.glob(pattern))
        assert found, pattern
        for path in found:
            assert not tops(path) & {"asyncio", "time", "socket", "threading"}, name(path)


def test_environment_is_read_only_in_settings() -> None:
    readers = {name(p) for p in product() if {"environ", "getenv"} & set(attributes(p, "os"))}
    assert readers <= {"settings.py"}


def test_clock_is_read_only_in_allowed_modules() -> None:
    allowed = (
        "streaming/clock.py",
        "streaming/http/timestamped_sockets.py",
        "simulator/",
        "benchmarks/",
        "locustfiles/",
    )
    readers = [name(p) for p in product() if "time" in imported_modules(p)]
    assert [reader for reader in readers if not reader.startswith(allowed)] == []


def test_app_module_stays_thin() -> None:
    path = ROOT / "app.py"
    assert len(path.read_text().splitlines()) < 150
    assert tops(path) & OWN <= {"guard", "providers", "server", "settings", "ui", "streaming"}


FIRST_WORDS = re.compile(r"^(Provides?|Comprehensive|This (class|module|function|method|file))\b")


@pytest.mark.parametrize("path", product(), ids=name)
def test_docstrings_avoid_empty_phrases(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), "a module says what it is for"
    for node in ast.walk(module):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not FIRST_WORDS.match(ast.get_docstring(node) or ""), node.name


@pytest.mark.parametrize("path", product(), ids=name)
def test_public_classes_and_functions_have_docstrings(path: Path) -> None:
    for node in tree(path).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


SILENCED = re.compile(r"# (noqa|type: ignore)(?P<rest>.*)")
REASONED = re.compile(r"^(: [A-Z]+\d+|\[[a-z-]+(, ?[a-z-]+)*\])\s+[#-]? ?\w")


@pytest.mark.parametrize("path", all_files(), ids=name)
def test_suppression_comments_have_code_and_reason(path: Path) -> None:
    if path == Path(__file__):
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if (found := SILENCED.search(line)) is not None:
            assert REASONED.match(found["rest"]), f"line {number}: {line.strip()}"


def test_tests_never_call_time_sleep() -> None:
    sleeping = re.compile(r"\btime\.sleep\(")
    sleepers = [
        name(p) for p in all_files() if "tests" in p.parts and p != Path(__file__) and sleeping.search(p.read_text())
    ]
    assert sleepers == []
