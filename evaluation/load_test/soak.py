"""Mishaps for as long as wanted: users who stop, drop the line or read slowly, broken providers, a Redis that restarts.

The verdict: no event lost and none twice, no answer broken but those whose provider broke them, none of these passed
off as complete, and the service no larger afterwards. Memory, descriptors and threads are those of the service's
process and its children, read between the first answers and the end, and again when all is quiet.
"""

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from evaluation.load_test import locust_run, rows
from evaluation.load_test.locust_run import Load
from evaluation.service import Service, read, service
from streaming.clock import monotonic
from streaming.errors import UsageError

KINDS = ("sse", "websocket", "openai")
MISHAPS = (
    "--cancel-rate", "0.15", "--reconnect-rate", "0.25", "--slow-rate", "0.05", "--fault-rate", "0.1",
    "--think-s", "0-0.5", "--max-tokens", "48",
)  # fmt: skip
SPARE_BYTES = 48 * 2**20
SPARE_SHARE = 0.15
SPARE_DESCRIPTORS = 8
SPARE_THREADS = 4
SETTLED_SHARE = 0.4
SETTLE_S = 20.0
SIZES = "sizes.jsonl"
_START_S = 10.0
_pause = Event()


@dataclass(frozen=True, slots=True)
class Size:
    """What a service holds: resident memory, open descriptors, threads, and answers that it thinks are under way."""

    memory_bytes: int
    descriptors: int
    threads: int
    streams: int


def grown(early: Size, late: Size) -> list[str]:
    """Say what has grown beyond what is spare, from when the load had begun to when all was quiet again.

    >>> grown(Size(100 * 2**20, 50, 5, 20), Size(110 * 2**20, 40, 5, 0)), grown(Size(1, 5, 5, 1), Size(1, 50, 5, 0))
    ([], ['descriptors: 5, then 50'])
    """
    found = []
    if late.memory_bytes > early.memory_bytes * (1 + SPARE_SHARE) + SPARE_BYTES:
        found.append(f"memory: {early.memory_bytes / 2**20:.0f} MiB, then {late.memory_bytes / 2**20:.0f} MiB")
    if late.descriptors > early.descriptors + SPARE_DESCRIPTORS:
        found.append(f"descriptors: {early.descriptors}, then {late.descriptors}")
    if late.threads > early.threads + SPARE_THREADS:
        found.append(f"threads: {early.threads}, then {late.threads}")
    if late.streams:
        found.append(f"{late.streams} answers are still under way when nobody asks any more")
    return found


def wrong(answers: list[dict[str, Any]]) -> list[str]:
    """Say what went wrong with answers: what was lost, came twice, broke for no reason, or broke and did not say so."""
    found = []
    for answer in answers:
        faulty = answer["provider"].endswith(("sim:cut", "sim:error"))
        who = f"{answer['transport']} {answer['trial_id']} of {answer['provider']}"
        if answer["error_type"] in ("lost", "twice"):
            found.append(f"{who}: {answer['error_type']}: {answer['error_message']}")
        elif faulty and answer["outcome"] == "completed":
            found.append(f"{who}: completed, though its provider broke it off")
        elif not faulty and answer["outcome"] not in ("completed", "cancelled"):
            found.append(f"{who}: {answer['outcome']}: {answer['error_type']}: {answer['error_message']}")
    return found


def late_ones(unfinished: int) -> list[str]:
    """Say how many answers never came to an end: nobody knows what of them was lost."""
    return [f"{unfinished} answers had not ended long after the last question"] if unfinished else []


class Watch:
    """Called every second: measures, into `sizes.jsonl` too, and restarts Redis once, half-way.

    The load begins with the first answer under way: Locust needs some time to start, more on a busy machine.
    """

    def __init__(self, service: Service, folder: Path, duration_s: float, restart: Callable[[], None] | None) -> None:
        assert service.pid is not None  # it was started here
        self._service, self._pid = service, service.pid
        self._begun_s: float | None = None
        self._duration_s = duration_s
        self._restart = restart
        self._file = folder / SIZES
        self.early: Size | None = None
        self.restarts = 0

    def __call__(self) -> None:
        size = self.size()
        if self._begun_s is None:
            if not size.streams:
                return
            self._begun_s = monotonic()
        passed_s = monotonic() - self._begun_s
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"passed_s": round(passed_s, 1), **asdict(size)}) + "\n")
        if self.early is None and passed_s > self._duration_s * SETTLED_SHARE:
            self.early = size
        if self._restart is not None and not self.restarts and passed_s > self._duration_s / 2:
            self._restart()
            self.restarts += 1

    def size(self) -> Size:
        """Measure now."""
        found = [self._pid, *_children(self._pid)]
        memory_bytes = descriptors = threads = 0
        for pid in found:
            with suppress(OSError, KeyError):  # a child that ends meanwhile
                status, open_ = _status(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))
                memory_bytes += int(status["VmRSS"].split()[0]) * 1024
                descriptors, threads = descriptors + open_, threads + int(status["Threads"])
        return Size(memory_bytes, descriptors, threads, _streams_open(self._service.url))

    def quiet(self) -> Size:
        """Measure when nothing is under way any more, at the latest after a while."""
        until_s = monotonic() + SETTLE_S
        while (found := self.size()).streams and monotonic() < until_s:
            _pause.wait(0.1)
        return found


def carry_out(minutes: float, users: int, folder: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Soak the service and give what came of it, `problems` among it. Raises UsageError."""
    if not 0.1 <= minutes <= 7 * 24 * 60:
        raise UsageError("--minutes must be from 0.1 to 10080")
    duration_s = round(minutes * 60)
    with ExitStack() as stack:
        redis = stack.enter_context(_redis()) if shutil.which("redis-server") else None
        more = {"REDIS_URL": redis.url} if redis else {}
        found = stack.enter_context(service(None, folder, {**more, **(variables or {})}))
        watch = Watch(found, folder, duration_s, redis.restart if redis else None)
        locust_run.run_locust(Load(users, duration_s, KINDS, more=MISHAPS), found.url, folder, watch)
        late = watch.quiet()
    heard = rows.read(folder)
    problems = (
        wrong(heard.answers)
        + late_ones(heard.unfinished)
        + (grown(watch.early, late) if watch.early else ["nothing was measured"])
    )
    return {
        "folder": str(folder),
        "minutes": minutes,
        "answers": len(heard.answers),
        "cancelled": sum(answer["outcome"] == "cancelled" for answer in heard.answers),
        "unfinished": heard.unfinished,
        "resumed": sum(answer["resumed"] for answer in heard.answers),
        "broken_by_provider": sum(answer["provider"].endswith(("cut", "error")) for answer in heard.answers),
        "redis_restarts": watch.restarts if redis else None,
        "early": asdict(watch.early) if watch.early else None,
        "late": asdict(late),
        "problems": problems,
    }


class _Redis:
    """A Redis of our own, which keeps what it was told over a restart."""

    def __init__(self, folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port = found.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._start()

    def _start(self) -> None:
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--dir", self._folder]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until_s = monotonic() + _START_S
        while monotonic() < until_s:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except ConnectionRefusedError:
                _pause.wait(0.02)
        self.stop()
        raise UsageError("redis-server did not start: what it said stands above")

    def restart(self) -> None:
        """End it at once, as a crash does, and start it again."""
        self._process.kill()
        self._process.wait()
        self._start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def _redis() -> Iterator[_Redis]:
    with tempfile.TemporaryDirectory() as folder:
        found = _Redis(folder)
        try:
            yield found
        finally:
            found.stop()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [each for child in map(int, found) for each in (child, *_children(child))]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _streams_open(url: str) -> int:
    """Read from the service's own figures how many answers it has under way."""
    lines = read(f"{url}/metrics").decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("streamgauge_streams_open")))
