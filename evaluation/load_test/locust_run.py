"""Runs Locust as a process of its own over this project's users."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.backends.service_process import ROOT
from streaming.errors import UsageError

USER_KINDS = ("sse", "websocket", "openai", "gradio")
_USERS_PER_PROCESS = 100
_POLL_INTERVAL_S = 1.0
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


@dataclass(frozen=True, slots=True)
class LocustOptions:
    """What is asked of Locust; `rate` is users added a second, `more` are further options of its command line."""

    users: int
    duration_s: int
    kinds: tuple[str, ...] = ("sse",)
    rate: float | None = None
    processes: int | None = None
    more: tuple[str, ...] = ()

    @property
    def users_per_s(self) -> float:
        """How many users are added a second: all of them, a hundred at most, if nothing else was asked for."""
        return self.rate or min(self.users, 100)

    @property
    def workers(self) -> int:
        """How many processes make the load: one for every hundred users, as many as there are processors at most."""
        if self.processes is not None:
            return self.processes
        return max(1, min(-(-self.users // _USERS_PER_PROCESS), os.cpu_count() or 1))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Read `sse,websocket`. Raises UsageError."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found or set(found) - set(USER_KINDS):
        raise UsageError(f"--kind {text!r}: use one or more of {', '.join(USER_KINDS)}")
    return found


def parse_duration_s(text: str) -> int:
    """Read `60s`, `2m`, `1h30m` or a number of seconds. Raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not 1 <= total_s <= 7 * 86_400:
        raise UsageError(f"--duration {text!r}: write a time of at least one second, for example 60s or 2m")
    return total_s


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came, to this process alone."""


def raise_terminated(*_: object) -> None:
    """Handle SIGTERM as a terminal's interrupt is handled."""
    raise TerminatedError


def run_locust(load: LocustOptions, url: str, folder: Path, meanwhile: Callable[[], None] | None = None) -> None:
    """Run a load to its end; what was heard is in `folder` then. Raises UsageError.

    Locust's own table, rounded, is not shown; what it complains of is. `meanwhile` is called about every second.
    """
    sys.stderr.write(f"load: {load.users} {'+'.join(load.kinds)} users for {load.duration_s} s\n")
    process = subprocess.Popen(locust_command(load, url, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        code = _wait_for_exit(process, meanwhile)
    except KeyboardInterrupt as signalled:
        # Locust ends in order, and what was heard so far is kept. A terminal's signal went to it as well.
        if isinstance(signalled, TerminatedError):
            process.send_signal(signal.SIGINT)
        code = process.wait()
    if code:
        raise UsageError(f"Locust ended with exit code {code}: what it said stands above")


def _wait_for_exit(process: subprocess.Popen[bytes], meanwhile: Callable[[], None] | None) -> int:
    while True:
        try:
            return process.wait(_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            if meanwhile is not None:
                meanwhile()


def locust_command(load: LocustOptions, url: str, folder: Path) -> list[str]:
    """Give Locust's command line; with several processes the master takes a free port, on this machine alone."""
    files = ",".join(str(ROOT / "locustfiles" / f"{kind}_user.py") for kind in load.kinds)
    found = [sys.executable, "-m", "locust", "-f", files, "--headless", "--host", url, "--only-summary"]
    found += ["--users", str(load.users), "--spawn-rate", f"{load.users_per_s:g}"]
    found += ["--run-time", f"{load.duration_s}s", "--out", str(folder.absolute()), "--no-report"]
    found += ["--json-file", str(folder.absolute() / "locust")]  # instead of its table
    found += ["--exit-code-on-error", "0", "--loglevel", "WARNING", *load.more]
    if load.workers > 1:
        port = str(_find_free_port())
        found += ["--processes", str(load.workers), "--master-bind-host", "127.0.0.1"]
        found += ["--master-bind-port", port, "--master-port", port]
    return found


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
