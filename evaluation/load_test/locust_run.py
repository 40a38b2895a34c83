"""Runs Locust with this project's user classes in a separate process."""

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
from streaming.os_limits import usable_cpu_count

NO_REPORT = "--no-report"
"""The option of the locustfiles with which a test writes its answers only."""
USER_KINDS = ("sse", "websocket", "openai", "gradio")
_USERS_PER_PROCESS = 100
_POLL_INTERVAL_S = 1.0
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


@dataclass(frozen=True, slots=True)
class LocustOptions:
    """The options of a Locust run; `rate` is users added per second, `more` are further command-line options."""

    users: int
    duration_s: int
    kinds: tuple[str, ...] = ("sse",)
    rate: float | None = None
    processes: int | None = None
    more: tuple[str, ...] = ()

    @property
    def users_per_s(self) -> float:
        """Users added per second: `rate`, or all of them within a second, at most 100."""
        return self.rate or min(self.users, 100)

    @property
    def workers(self) -> int:
        """The number of load-generating processes: `processes`, or one per 100 users, at most one per processor."""
        if self.processes is not None:
            return self.processes
        return max(1, min(-(-self.users // _USERS_PER_PROCESS), usable_cpu_count()))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Parse a list such as `sse,websocket`; drop duplicates. Raises UsageError when a kind is unknown."""
    kinds = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not kinds or set(kinds) - set(USER_KINDS):
        raise UsageError(f"--kind {text!r}: unknown (use one or more of {', '.join(USER_KINDS)})")
    return kinds


def parse_duration_s(text: str) -> int:
    """Parse `60s`, `2m`, `1h30m` or a number of seconds; return seconds.

    Raises UsageError unless it is between one second and a week.
    """
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not 1 <= total_s <= 7 * 86_400:
        raise UsageError(f"--duration {text!r}: not a time of at least one second (write for example 60s or 2m)")
    return total_s


class TerminatedError(KeyboardInterrupt):
    """This process received SIGTERM. Unlike a terminal's SIGINT, the signal did not reach its children."""


def raise_terminated(*_: object) -> None:
    """Raise TerminatedError; a handler for SIGTERM."""
    raise TerminatedError


def run_locust(load: LocustOptions, url: str, folder: Path, meanwhile: Callable[[], None] | None = None) -> None:
    """Run a load to its end; its users write their answers to `folder`. `meanwhile` is called about every second.

    Locust's own table, which is rounded, is not shown; its warnings and errors are. Raises UsageError when Locust
    fails.
    """
    sys.stderr.write(f"load: {load.users} {'+'.join(load.kinds)} users for {load.duration_s} s\n")
    process = subprocess.Popen(locust_command(load, url, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        code = _wait_for_exit(process, meanwhile)
    except KeyboardInterrupt as signalled:
        # Locust shuts down cleanly and keeps the answers so far. A terminal sends SIGINT to Locust as well.
        if isinstance(signalled, TerminatedError):
            process.send_signal(signal.SIGINT)
        code = process.wait()
    if code:
        raise UsageError(f"Locust: failed with exit code {code} (see its messages above)")


def _wait_for_exit(process: subprocess.Popen[bytes], meanwhile: Callable[[], None] | None) -> int:
    while True:
        try:
            return process.wait(_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            if meanwhile is not None:
                meanwhile()


def locust_command(load: LocustOptions, url: str, folder: Path) -> list[str]:
    """Return Locust's command line. With several processes the master listens on a free port of 127.0.0.1."""
    files = ",".join(str(ROOT / "locustfiles" / f"{kind}_user.py") for kind in load.kinds)
    command = [sys.executable, "-m", "locust", "-f", files, "--headless", "--host", url, "--only-summary"]
    command += ["--users", str(load.users), "--spawn-rate", f"{load.users_per_s:g}"]
    command += ["--run-time", f"{load.duration_s}s", "--out", str(folder.absolute()), NO_REPORT]
    command += ["--json-file", str(folder.absolute() / "locust")]  # replaces Locust's own table
    command += ["--exit-code-on-error", "0", "--loglevel", "WARNING", *load.more]
    if load.workers > 1:
        port = str(_find_free_port())
        command += ["--processes", str(load.workers), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    return command


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
