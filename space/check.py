"""Checks of the tree that `make space` uploads: card, pins, start, address, sizes and secrets.

Only the resolution of the packages needs a network.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from guard.output_filter import Redactor
from guard.secret_patterns import SECRET_PATTERNS, Patterns
from settings import Settings
from space.card import README, CardError, Problem, read_card
from space.card_rules import check_card

REQUIREMENTS = "requirements.txt"
EXTRAS = ("oauth", "mcp")
"""The extras of Gradio that a Space installs."""
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
PORT, HOST = "7860", "0.0.0.0"
"""The port that a Gradio Space is asked at, and the address on which it must listen."""
MAX_FILE_BYTES = 10_000_000
"""The largest file that the Hub stores without a large-file storage."""
MAX_TOTAL_BYTES = 100_000_000
_LEFT_OUT = "tests/"
_HASH = re.compile(r"\s*--hash=sha256:[0-9a-f]{64}( \\)?")
_KEY_PATTERNS = tuple(one for one in SECRET_PATTERNS if one.name.startswith(("token_", "pem_", "named_")))


def install_arguments(sdk_version: str) -> list[str]:
    """Return pip's arguments for what a Gradio Space installs, in one resolution, as public build logs show it."""
    gradio = f"gradio[{','.join(EXTRAS)}]=={sdk_version}"
    return ["--requirement", REQUIREMENTS, gradio, "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


def list_files(root: Path) -> list[str]:
    """Return the files that are uploaded: those that Git tracks, without the tests. Raises CalledProcessError."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and not name.startswith(_LEFT_OUT) and (root / name).is_file()]


def check_tree(root: Path, files: Iterable[str], settings: Settings) -> Iterator[Problem]:
    """Yield the broken rules that can be found without a network. `files` are those that are uploaded."""
    names = list(files)
    try:
        yield from check_card(read_card(root / README), root)
    except CardError as error:
        yield error.problem
    yield from check_pins(root)
    yield from check_start(root, names)
    yield from check_address(root)
    yield from check_sizes(root, names)
    yield from check_secrets(root, names, settings)


def check_resolution(root: Path) -> Iterator[Problem]:
    """Yield a problem for each Python and machine on which the packages of a Space cannot be installed together."""
    line = install_arguments(str(read_card(root / README).fields["sdk_version"]))
    for python in PYTHONS:
        for machine in MACHINES:
            target = [
                "--python-version",
                python,
                "--implementation",
                "cp",
                "--only-binary",
                ":all:",
                "--target",
                "unused",
            ]
            platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 27, 28)]
            command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", *target]
            run = subprocess.run([*command, *platforms, *line], cwd=root, capture_output=True, text=True, check=False)
            if run.returncode:
                output = [text for text in run.stderr.splitlines() if text.startswith("ERROR:")] or ["pip failed"]
                text = f"Python {python} on {machine}: {output[0].removeprefix('ERROR: ')}"
                yield Problem(REQUIREMENTS, 0, text, "leave the package to Gradio: write the range that all accept")


def check_pins(root: Path) -> Iterator[Problem]:
    """Yield the pins that contradict what Gradio or one of its extras requires, by the installed Gradio."""
    expected = [Requirement(text) for text in requires("gradio") or ()]
    bounds: dict[str, list[Requirement]] = {}
    for requirement in expected:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *EXTRAS)):
            bounds.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for number, text in enumerate((root / REQUIREMENTS).read_text(encoding="utf-8").splitlines(), 1):
        pinned = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", text)
        if pinned is None:
            continue
        for bound in bounds.get(canonicalize_name(pinned[1]), ()):
            if not bound.specifier.contains(pinned[2], prereleases=True):
                output = f"{pinned[0]} contradicts Gradio {version('gradio')}, which requires {bound.specifier}"
                yield Problem(REQUIREMENTS, number, output, "leave the version to Gradio: write a range")


def check_start(root: Path, names: Iterable[str]) -> Iterator[Problem]:
    """Yield what keeps a ZeroGPU Space "starting": no function for `spaces.GPU`, a coroutine, or no report."""
    functions = [entry for name in names if name.endswith(".py") for entry in _find_gpu_functions(root, name)]
    for name, line, is_coroutine in functions:
        if is_coroutine:
            yield Problem(name, line, "spaces.GPU rejects coroutine functions", "hand it a function without async")
    if not functions:
        text = "no function is handed to spaces.GPU, and ZeroGPU never leaves its start"
        yield Problem("space/zero_gpu.py", 0, text, "call spaces.GPU with one function that is not a coroutine")
    app = root / "app.py"
    if not app.is_file() or "report_start()" not in app.read_text(encoding="utf-8"):
        remedy = "call space.zero_gpu.report_start on ZeroGPU"
        yield Problem("app.py", 0, "the start is not reported to ZeroGPU", remedy)


def _find_gpu_functions(root: Path, name: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (file, line, whether it is a coroutine function) for each function of a module that `spaces.GPU` gets."""
    text = (root / name).read_text(encoding="utf-8")
    if "spaces.GPU" not in text:
        return
    tree = ast.parse(text)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "spaces.GPU" and node.args:
            function = functions.get(ast.unparse(node.args[0]))
            if function is not None:
                yield name, function.lineno, isinstance(function, ast.AsyncFunctionDef)
        elif isinstance(node, kinds) and any("spaces.GPU" in ast.unparse(one) for one in node.decorator_list):
            yield name, node.lineno, isinstance(node, ast.AsyncFunctionDef)


def check_address(root: Path) -> Iterator[Problem]:
    """Yield the options whose default on a Space is not what the Hub asks, by the help of the app itself."""
    environment = {**Settings.from_environment().variables, "SPACE_ID": "somebody/space", "COLUMNS": "200"}
    command = [sys.executable, "app.py", "--help"]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    for option, expected in (("--port", PORT), ("--host", HOST)):
        match = re.search(rf"^\s+{option} .*\(default: (.+)\)$", run.stdout, re.MULTILINE)
        if match is None or match[1] != expected:
            lines = (root / "app.py").read_text(encoding="utf-8").splitlines() if (root / "app.py").is_file() else []
            line = next((number for number, text in enumerate(lines, 1) if f'"{option}"' in text), 0)
            text = f"{option}: the default on a Space is {match[1] if match else 'unknown'}"
            yield Problem("app.py", line, text, f"make it {expected}, where a Gradio Space is asked")


def check_sizes(root: Path, names: Iterable[str]) -> Iterator[Problem]:
    """Yield the files that are too large for the Hub, and the tree if it is."""
    sizes = {name: (root / name).stat().st_size for name in names}
    for name, size in sizes.items():
        if size > MAX_FILE_BYTES:
            text = f"{size:,} bytes are more than the Hub stores in a repository without large-file storage"
            yield Problem(name, 0, text, f"keep files under {MAX_FILE_BYTES:,} bytes, or preload them from the Hub")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        text = f"{sum(sizes.values()):,} bytes are much for an app's code"
        yield Problem(".", 0, text, f"upload less than {MAX_TOTAL_BYTES:,} bytes")


def check_secrets(root: Path, names: Iterable[str], settings: Settings) -> Iterator[Problem]:
    """Yield the lines with the shape of a key, or with the value of a secret of this environment."""
    patterns = Patterns((), _KEY_PATTERNS, settings.secrets())
    for name in names:
        if Path(name).name.startswith(".env") and Path(name).name != ".env.example":
            yield Problem(name, 0, "a file of secrets would be public", "remove it from Git and renew its keys")
        try:
            lines = (root / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or a table
        for number, line in enumerate(lines, 1):
            if _HASH.fullmatch(line) is None and _has_secret(line, patterns):
                yield Problem(name, number, "a secret would be public", "remove it, and renew it where it came from")


def _has_secret(line: str, patterns: Patterns) -> bool:
    redactor = Redactor(patterns)
    return redactor.feed(line) + redactor.flush() != line
