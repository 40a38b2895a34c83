"""Soak test with fault injection: clients that cancel, reconnect or read slowly, failing providers, a Redis restart.

It passes if no event was lost or delivered twice, no answer failed except those whose provider failed, none of these
was reported as completed, and the service has not grown. Memory, file descriptors and threads are those of the
service's process and its children, sampled during the load and again when no answer is under way.
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

from evaluation.backends.service_process import ServiceProcess, fetch, running_service
from evaluation.load_test import import_answers, locust_run
from evaluation.load_test.locust_run import LocustOptions
from streaming.clock import monotonic
from streaming.errors import UsageError

USER_KINDS = ("sse", "websocket", "openai")
FAULT_OPTIONS = (
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
_START_TIMEOUT_S = 10.0
_pause = Event()


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """A service's resident memory, open file descriptors and threads, and the answers it reports as under way."""

    memory_bytes: int
    descriptors: int
    threads: int
    streams: int


def find_leaks(early: ProcessStats, late: ProcessStats) -> list[str]:
    """Return the resources that grew by more than the tolerance between the start of the load and the idle service.

    >>> find_leaks(ProcessStats(100 * 2**20, 50, 5, 20), ProcessStats(110 * 2**20, 40, 5, 0)),
        find_leaks(ProcessStats(1, 5, 5, 1), ProcessStats(1, 50, 5, 0))
    ([], ['descriptors: 5, then 50'])
    """
    problems = []
    if late.memory_bytes > early.memory_bytes * (1 + SPARE_SHARE) + SPARE_BYTES:
        problems.append(f"memory: {early.memory_bytes / 2**20:.0f} MiB, then {late.memory_bytes / 2**20:.0f} MiB")
    if late.descriptors > early.descriptors + SPARE_DESCRIPTORS:
        problems.append(f"descriptors: {early.descriptors}, then {late.descriptors}")
    if late.threads > early.threads + SPARE_THREADS:
        problems.append(f"threads: {early.threads}, then {late.threads}")
    if late.streams:
        problems.append(f"streams: {late.streams} answers are still under way after the last request has ended")
    return problems


def find_wrong_answers(answers: list[dict[str, Any]]) -> list[str]:
    """Return the answers with lost or repeated events, unexplained failures, or failures reported as completed."""
    problems = []
    for answer in answers:
        faulty = answer["provider"].endswith(("sim:cut", "sim:error"))
        who = f"{answer['transport']} {answer['trial_id']} of {answer['provider']}"
        if answer["error_type"] in ("lost", "twice"):
            problems.append(f"{who}: {answer['error_type']}: {answer['error_message']}")
        elif faulty and answer["outcome"] == "completed":
            problems.append(f"{who}: reported as completed, although its provider failed")
        elif not faulty and answer["outcome"] not in ("completed", "cancelled"):
            problems.append(f"{who}: {answer['outcome']}: {answer['error_type']}: {answer['error_message']}")
    return problems


def find_unfinished(unfinished: int) -> list[str]:
    """Return a problem if answers never ended: events of theirs may be lost."""
    return [f"answers: {unfinished} had not ended long after the last request"] if unfinished else []


class SoakMonitor:
    """A callback for every second of the load: appends a sample to `sizes.jsonl` and restarts Redis once, half-way.

    The load counts as started with the first answer under way, since Locust's own start takes some time.
    """

    def __init__(
        self, service: ServiceProcess, folder: Path, duration_s: float, restart: Callable[[], None] | None
    ) -> None:
        assert service.pid is not None  # the soak test started it
        self._service, self._pid = service, service.pid
        self._begun_s: float | None = None
        self._duration_s = duration_s
        self._restart = restart
        self._file = folder / SIZES
        self.early: ProcessStats | None = None
        self.restarts = 0

    def __call__(self) -> None:
        size = self.sample()
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

    def sample(self) -> ProcessStats:
        """Return the current statistics of the service's process and its children."""
        pids = [self._pid, *_child_pids(self._pid)]
        memory_bytes = descriptors = threads = 0
        for pid in pids:
            with suppress(OSError, KeyError):  # a child that ends meanwhile
                status, open_ = _read_proc_status(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))
                memory_bytes += int(status["VmRSS"].split()[0]) * 1024
                descriptors, threads = descriptors + open_, threads + int(status["Threads"])
        return ProcessStats(memory_bytes, descriptors, threads, _read_open_streams(self._service.url))

    def sample_when_idle(self) -> ProcessStats:
        """Return the statistics once no answer is under way, or after `SETTLE_S` seconds."""
        until_s = monotonic() + SETTLE_S
        while (sample := self.sample()).streams and monotonic() < until_s:
            _pause.wait(0.1)
        return sample


def run_soak(minutes: float, users: int, folder: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a soak test and return its result; `problems` is empty if it passed.

    Raises UsageError when an option is invalid or the service, Redis or Locust fails.
    """
    if not 0.1 <= minutes <= 7 * 24 * 60:
        raise UsageError("--minutes: out of range (use 0.1 to 10080)")
    duration_s = round(minutes * 60)
    with ExitStack() as stack:
        redis = stack.enter_context(_run_redis()) if shutil.which("redis-server") else None
        more = {"REDIS_URL": redis.url} if redis else {}
        service = stack.enter_context(running_service(None, folder, {**more, **(variables or {})}))
        watch = SoakMonitor(service, folder, duration_s, redis.restart if redis else None)
        locust_run.run_locust(
            LocustOptions(users, duration_s, USER_KINDS, more=FAULT_OPTIONS), service.url, folder, watch
        )
        late = watch.sample_when_idle()
    load_test = import_answers.read_answers(folder)
    problems = (
        find_wrong_answers(load_test.answers)
        + find_unfinished(load_test.unfinished)
        + (find_leaks(watch.early, late) if watch.early else ["memory: not measured"])
    )
    return {
        "folder": str(folder),
        "minutes": minutes,
        "answers": len(load_test.answers),
        "cancelled": sum(answer["outcome"] == "cancelled" for answer in load_test.answers),
        "unfinished": load_test.unfinished,
        "resumed": sum(answer["resumed"] for answer in load_test.answers),
        "broken_by_provider": sum(answer["provider"].endswith(("cut", "error")) for answer in load_test.answers),
        "redis_restarts": watch.restarts if redis else None,
        "early": asdict(watch.early) if watch.early else None,
        "late": asdict(late),
        "problems": problems,
    }


class _RedisServer:
    """A local Redis server that writes every command to disk, so that a restart loses nothing."""

    def __init__(self, folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._start_process()

    def _start_process(self) -> None:
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--dir", self._folder]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until_s = monotonic() + _START_TIMEOUT_S
        while monotonic() < until_s:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except ConnectionRefusedError:
                _pause.wait(0.02)
        self.stop()
        raise UsageError("redis-server: did not start (see its messages above)")

    def restart(self) -> None:
        """Kill the server, as a crash would, and start it again."""
        self._process.kill()
        self._process.wait()
        self._start_process()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def _run_redis() -> Iterator[_RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        redis_server = _RedisServer(folder)
        try:
            yield redis_server
        finally:
            redis_server.stop()


def _child_pids(pid: int) -> list[int]:
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [each for child in map(int, pids) for each in (child, *_child_pids(child))]


def _read_proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read_open_streams(url: str) -> int:
    """Return the number of answers under way according to the service's Prometheus metrics."""
    lines = fetch(f"{url}/metrics").decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("streamgauge_streams_open")))
