"""Runs Locust as a process of its own over this project's users, and starts the service where no address is given."""

import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from settings import Settings
from streaming.clock import monotonic
from streaming.errors import UsageError

KINDS = ("sse", "websocket", "openai", "gradio")
ROOT = Path(__file__).resolve().parent.parent.parent
_USERS_A_PROCESS = 100
_START_S = 60.0
_STOP_S = 30.0
_LOOK_S = 1.0
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_NO_LIMITS = {"RATE_LIMIT": "off", "BUDGETS": "off"}


@dataclass(frozen=True, slots=True)
class Load:
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
        return max(1, min(-(-self.users // _USERS_A_PROCESS), os.cpu_count() or 1))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Read `sse,websocket`. Raises UsageError."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found or set(found) - set(KINDS):
        raise UsageError(f"--kind {text!r}: use one or more of {', '.join(KINDS)}")
    return found


def parse_duration_s(text: str) -> int:
    """Read `60s`, `2m`, `1h30m` or a number of seconds. Raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not 1 <= total_s <= 7 * 86_400:
        raise UsageError(f"--duration {text!r}: write a time of at least one second, for example 60s or 2m")
    return total_s


def run_locust(load: Load, url: str, folder: Path, meanwhile: Callable[[], None] | None = None) -> None:
    """Run a load to its end; what was heard is in `folder` then. Raises UsageError.

    Locust's own table, rounded, is not shown; what it complains of is. `meanwhile` is called about every second.
    """
    sys.stderr.write(f"load: {load.users} {'+'.join(load.kinds)} users for {load.duration_s} s\n")
    process = subprocess.Popen(command(load, url, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        code = _waited(process, meanwhile)
    except KeyboardInterrupt:
        # Locust got the signal as well and ends in order: what was heard so far is kept.
        code = process.wait()
    if code:
        raise UsageError(f"Locust ended with exit code {code}: what it said stands above")


def _waited(process: subprocess.Popen[bytes], meanwhile: Callable[[], None] | None) -> int:
    while True:
        try:
            return process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            if meanwhile is not None:
                meanwhile()


def command(load: Load, url: str, folder: Path) -> list[str]:
    """Give Locust's command line; with several processes the master takes a free port, on this machine alone."""
    files = ",".join(str(ROOT / "locustfiles" / f"{kind}_user.py") for kind in load.kinds)
    found = [sys.executable, "-m", "locust", "-f", files, "--headless", "--host", url, "--only-summary"]
    found += ["--users", str(load.users), "--spawn-rate", f"{load.users_per_s:g}"]
    found += ["--run-time", f"{load.duration_s}s", "--out", str(folder.absolute()), "--no-report"]
    found += ["--json-file", str(folder.absolute() / "locust")]  # instead of its table
    found += ["--exit-code-on-error", "0", "--loglevel", "WARNING", *load.more]
    if load.workers > 1:
        port = str(_free_port())
        found += ["--processes", str(load.workers), "--master-bind-host", "127.0.0.1"]
        found += ["--master-bind-port", port, "--master-port", port]
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Service:
    """A service under load; `pid` is None for one that was not started here."""

    url: str
    pid: int | None = None


@contextmanager
def service(
    url: str | None, kinds: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Give the service at `url`, or one of our own without limits, which logs to `service.log` in `folder`.

    It is ended afterwards. Raises UsageError.
    """
    if url is not None:
        yield Service(_checked(url))
        return
    page = () if "gradio" in kinds else ("--no-ui",)
    command = [sys.executable, "app.py", "--port", "0", *page]
    environment = {**Settings.from_environment().variables, **_NO_LIMITS, **(variables or {})}
    with started(command, folder / "service.log", environment) as found:
        yield found


@contextmanager
def started(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Start a server of this project, which says its address in its first line, and end it. Raises UsageError."""
    with (
        log.open("ab") as words,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=words) as process,
    ):
        try:
            url = _address(process)
            if url is None:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
                raise UsageError(f"{' '.join(command[1:3])} did not start: {said[-1]}")
            yield Service(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes]) -> str | None:
    assert process.stdout is not None  # it is a pipe
    until_s, said = monotonic() + _START_S, b""
    while b"\n" not in said and (left_s := until_s - monotonic()) > 0:
        if select.select([process.stdout], [], [], left_s)[0]:
            data = os.read(process.stdout.fileno(), 4096)
            if not data:
                break
            said += data
    found = re.search(rb"https?://\S+", said)
    return found[0].decode() if found else None


def _checked(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise UsageError(f"--url {url!r}: write an address such as http://127.0.0.1:7860")
    return url.rstrip("/")
