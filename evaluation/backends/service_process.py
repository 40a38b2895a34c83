"""The service that a run sends its requests to: an existing one at a URL, or one that is started for the run."""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from settings import Settings
from streaming.clock import monotonic
from streaming.errors import UsageError
from streaming.limits import MAX_BODY_BYTES

ROOT = Path(__file__).resolve().parent.parent.parent
LOG_FILE = "service.log"
_START_TIMEOUT_S = 180.0
"""A service with the page takes 10 s to start, and several times as long on a busy machine."""
_STOP_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1
_DIRECT_OPENER = build_opener(ProxyHandler({}))
_pause = Event()
UNLIMITED_LENGTHS = {
    "MAX_MESSAGE_CHARS": "10000000",
    "MAX_CONVERSATION_CHARS": "100000000",
    "MAX_BODY_BYTES": str(2**30),
    "MAX_OUTPUT_TOKENS": str(10**6),
}
"""The variables of a service that is started for long prompts or answers: the most that each takes."""
_UNLIMITED_ENV = {"RATE_LIMIT": "off", "BUDGETS": "off", "PUBLIC_MODELS": "*"}


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A running service; `pid` is None if it was not started by this process."""

    url: str
    pid: int | None = None


@contextmanager
def running_service(
    url: str | None, folder: Path, variables: Mapping[str, str] | None = None, *, page: bool = False
) -> Iterator[ServiceProcess]:
    """Yield the service at `url`; for None, start one without limits, and stop it afterwards.

    A service that is started logs to `service.log` in `folder` and serves the web page if `page` is true. Raises
    UsageError when the URL is invalid or the service does not start.
    """
    if url is not None:
        yield ServiceProcess(validate_url(url))
        return
    command = [sys.executable, "app.py", "--port", "0", *(() if page else ("--no-ui",))]
    environment = {**Settings.from_environment().variables, **_UNLIMITED_ENV, **(variables or {})}
    with start_process(command, folder / LOG_FILE, environment) as process:
        wait_for_local_model(process.url)
        yield process


def wait_for_local_model(url: str) -> None:
    """Wait until a service that has just started has loaded its local model, so that loading is not measured.

    Waits for three minutes at most, for the model may still be downloading, and not at all for a service that loads it
    with its first request (`PRELOAD_MODEL=off`). Raises UsageError when the service does not answer.
    """
    until_s = monotonic() + _START_TIMEOUT_S
    while json.loads(fetch(f"{url}/healthz"))["local_model"] == "loading" and monotonic() < until_s:
        _pause.wait(0.1)


def fetch(address: str) -> bytes:
    """Return the body at an address of a service started here. Raises UsageError when it does not answer."""
    try:
        with _DIRECT_OPENER.open(address, timeout=_START_TIMEOUT_S) as response:
            output: bytes = response.read(MAX_BODY_BYTES)
            return output
    except OSError as error:
        raise UsageError(f"the started service: no response at {address}, {error} (see {LOG_FILE})") from None


@contextmanager
def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[ServiceProcess]:
    """Start a server of this project, yield it, and stop it afterwards. Its stderr goes to the file `log`.

    The server prints its URL on stdout. Raises UsageError, with the last line of the log, when it does not start.
    """
    with (
        log.open("ab") as words,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=words, preexec_fn=_parent_death_hook()
        ) as process,
    ):
        try:
            url = _read_address(process)
            if url is None and not _has_ended(process):
                raise UsageError(
                    f"{' '.join(command[1:3])}: did not start within {_START_TIMEOUT_S:g} s (see {log.name})"
                )
            if url is None:
                output = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no error message"]
                raise UsageError(f"{' '.join(command[1:3])}: did not start ({output[-1]})")
            yield ServiceProcess(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process that prints nothing more has ended; one that has closed its output is ending."""
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _parent_death_hook() -> Callable[[], None] | None:
    """Return a hook that makes the kernel stop the child when its parent is killed; None outside Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def validate_url(url: str, option: str = "--url") -> str:
    """Return a URL without a trailing slash. Raises UsageError unless it is an http(s) URL without credentials."""
    try:
        is_valid = urlsplit(url).port != 0 and re.fullmatch(r"https?://[^\s/@]+(/\S*)?", url) is not None
    except ValueError:  # a bracket without its other one, or a port that is no number up to 65535
        is_valid = False
    if not is_valid:
        raise UsageError(f"{option} {url!r}: not an address (write one such as http://127.0.0.1:7860, without a key)")
    return url.rstrip("/")


def _read_address(process: subprocess.Popen[bytes]) -> str | None:
    assert process.stdout is not None  # it is a pipe
    until_s, output = monotonic() + _START_TIMEOUT_S, b""
    while b"\n" not in output and (left_s := until_s - monotonic()) > 0:
        if select.select([process.stdout], [], [], left_s)[0]:
            data = os.read(process.stdout.fileno(), 4096)
            if not data:
                break
            output += data
    match = re.search(rb"https?://\S+", output)
    return match[0].decode() if match else None
