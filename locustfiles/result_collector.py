"""The collection of all users' answers in one folder: each worker sends its answers to the master, which writes them.

The folder's `answers.jsonl` has a header and one line per answer. At the end of the test
`python -m evaluation.load_test report FOLDER` turns it into the rows, tables and report of an evaluation. That command
runs in a separate process, because gevent and asyncio must not run in the same one.

A test ends in an orderly way, whoever stops it: no user sends a new request, answers under way may end within
`--drain-s`, and the master exits after every worker has reported that it is done. A worker's last answers arrive before
that report because they use the same connection.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import gevent
from answer_record import AnswerRecord
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from load_options import DEFAULT_SLO, parse_range_s
from locust import events
from locust.env import Environment
from locust.event import EventHook
from locust.runners import MasterRunner, WorkerRunner

from evaluation.levels import parse_user_levels
from streaming.clock import utc_now
from streaming.errors import UsageError
from streaming.os_limits import set_realtime_priority

ANSWERS_FILE = "answers.jsonl"
_POLL_INTERVAL_S = 0.05
_WORKERS_TIMEOUT_S = 15.0
_SLICE_ITEMS = 8
T = TypeVar("T")
_PROJECT_ROOT = Path(__file__).resolve().parent.parent


answer_received = EventHook()
"""Fired with `answer`, a line of the answers' file, for each answer that this process collects."""


class _CollectorState:
    """The state of the test in this process."""

    def __init__(self) -> None:
        self.open_answers = 0
        self.closing = False
        self.ramping = True
        self.level: int | None = None
        self.real_time = False
        self.gone_workers: set[str] = set()
        self.folder: Path | None = None
        self.file: IO[str] | None = None
        self.never = Event()


state = _CollectorState()


@contextmanager
def open_answer(environment: Environment, answer: AnswerRecord) -> Iterator[None]:
    """Count an answer as open in the context, and report it on exit, even when its user is killed."""
    state.open_answers += 1
    try:
        yield
    finally:
        state.open_answers -= 1
        if environment.runner is not None:
            environment.runner.send_message("answer", answer.as_dict())


class DecodingTurns:
    """A lock that lets one user at a time decode its data, in slices, between which all other users read.

    Data that is read late still has its exact kernel timestamp, unless more bytes have joined it in the socket.
    """

    def __init__(self) -> None:
        self._turn = BoundedSemaphore(1)

    @contextmanager
    def slices(self, items: Sequence[T]) -> Iterator[Iterator[T]]:
        """Return an iterator that lets other users run after every few items. Leaving the context ends the turn."""
        with self._turn:
            yield _yield_between_slices(items)


def _yield_between_slices(items: Sequence[T]) -> Iterator[T]:
    for start in range(0, len(items), _SLICE_ITEMS):
        yield from items[start : start + _SLICE_ITEMS]
        gevent.sleep(0)


turns = DecodingTurns()


def wait_while_closing() -> None:
    """Return at once during the test. While the test is ending, block forever; Locust then kills the user here."""
    if state.closing:
        state.never.wait()


@events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: object) -> None:
    runner.register_message("last_orders", _on_drain_request, concurrent=True)
    runner.register_message("level", _on_level)
    if not isinstance(runner, WorkerRunner):
        runner.register_message("answer", _on_answer)
        runner.register_message("done", _on_worker_done)
        try:
            _open_answers_file(environment)
        except UsageError as error:
            _dismiss_workers(runner, environment.parsed_options)
            sys.exit(f"error: {error}")


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: object) -> None:
    state.closing, state.ramping = False, True
    # Exclude the current objects from garbage collection: scanning them during the test would delay reads.
    gc.collect()
    gc.freeze()
    options = environment.parsed_options
    if state.file is not None and not state.file.tell() and options is not None:
        _write_head(environment, options)
    if not isinstance(environment.runner, MasterRunner) and options is not None and options.real_time:
        state.real_time = set_realtime_priority()


def set_level(runner: Any, level: int) -> None:
    """Begin a step of a sweep, here and on the workers, before its users are added or removed."""
    if level != state.level:
        _begin_level(level)
        if isinstance(runner, MasterRunner):
            runner.send_message("level", {"users": level})


def _on_level(environment: Environment, msg: Any, **_: object) -> None:
    _begin_level(msg.data["users"])


def _begin_level(level: int) -> None:
    state.level, state.ramping = level, True


@events.test_stop.add_listener
def _on_test_stop(environment: Environment, **_: object) -> None:
    if state.real_time and sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        state.real_time = False
    state.gone_workers.clear()
    state.level = None  # not at the start: the first step begins before it


@events.spawning_complete.add_listener
def _on_spawning_complete(user_count: int, **_: object) -> None:
    state.ramping = False


@events.test_stopping.add_listener
def _on_test_stopping(environment: Environment, **_: object) -> None:
    """Let the answers under way end, here or on the workers."""
    runner, options = environment.runner, environment.parsed_options
    if isinstance(runner, WorkerRunner) or options is None:
        return
    if not isinstance(runner, MasterRunner):
        _drain(options.drain_s)
        return
    workers = {client.id for client in runner.clients.all}
    runner.send_message("last_orders", {"drain_s": options.drain_s})
    until_s = time.monotonic() + options.drain_s + 5
    while workers - state.gone_workers and workers & set(runner.clients) and time.monotonic() < until_s:
        gevent.sleep(_POLL_INTERVAL_S)


@events.quitting.add_listener
def _on_quitting(environment: Environment, **_: object) -> None:
    """Close the file and create the report, whose exit code becomes that of the test."""
    if isinstance(environment.runner, WorkerRunner) or environment.parsed_options is None or state.file is None:
        return
    if environment.runner is not None:
        environment.runner.quit()
    _write_line({"ended_at": utc_now()})
    state.file.close()
    state.file = None
    if environment.parsed_options.report:
        command = [sys.executable, "-m", "evaluation.load_test", "report", str(state.folder)]
        command += ["--slo", environment.parsed_options.slo or DEFAULT_SLO]
        environment.process_exit_code = subprocess.run(command, cwd=_PROJECT_ROOT, check=False).returncode


def _on_drain_request(environment: Environment, msg: Any, **_: object) -> None:
    """Drain this worker, and report `done` to the master after all its answers."""
    _drain(msg.data["drain_s"])
    assert environment.runner is not None
    environment.runner.send_message("done", {})


def _drain(drain_s: float) -> None:
    state.closing = True
    until_s = time.monotonic() + drain_s
    while state.open_answers and time.monotonic() < until_s:
        gevent.sleep(_POLL_INTERVAL_S)


def _on_worker_done(environment: Environment, msg: Any, **_: object) -> None:
    state.gone_workers.add(msg.node_id)


def _on_answer(environment: Environment, msg: Any, **_: object) -> None:
    _write_line(msg.data)
    answer_received.fire(answer=msg.data)


def _open_answers_file(environment: Environment) -> None:
    """Create the folder and the file before the first answer. Raises UsageError."""
    options = environment.parsed_options
    if options is None:
        return
    if options.headless and not environment.host:
        raise UsageError("--host: no service is named (use -H with its address, for example -H http://127.0.0.1:7860)")
    if environment.host and not environment.host.lower().startswith(("http://", "https://")):
        raise UsageError(f"--host {environment.host}: has no scheme (write it with http:// or https:// before it)")
    if options.slo and not options.report:
        raise UsageError("--no-report: leaves the objectives of --slo without a verdict (leave out one of the two)")
    folder = Path(options.out or Path("out", f"load-{datetime.now(UTC):%Y%m%d-%H%M%S}")).absolute()
    try:
        if (folder / ANSWERS_FILE).exists():
            raise UsageError(f"--out {options.out}: contains a load test already (choose a new or an empty folder)")
        folder.mkdir(parents=True, exist_ok=True)
        state.folder, state.file = folder, (folder / ANSWERS_FILE).open("a", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out {folder}: cannot be written ({reason}; choose another folder)") from None


def _dismiss_workers(runner: Any, options: Any) -> None:
    """End the workers that Locust has started with `--processes`: it ends without them when a test cannot start."""
    if not isinstance(runner, MasterRunner) or not options.processes:
        return
    with gevent.Timeout(_WORKERS_TIMEOUT_S, False):
        while len(runner.clients.ready) < options.expect_workers:
            gevent.sleep(_POLL_INTERVAL_S)
    runner.quit()


def _write_head(environment: Environment, options: Any) -> None:
    """Write the header with the test's options; on Locust's page they are known only when the first test starts."""
    assert state.folder is not None
    names = (
        "provider",
        "strategy",
        "model",
        "max_tokens",
        "cancel_rate",
        "reconnect_rate",
        "slow_rate",
        "shape",
        "fresh",
    )
    facts: dict[str, Any] = {name: getattr(options, name) for name in names}
    levels = parse_user_levels(options.levels)
    facts |= {
        "users": max(levels, default=options.num_users or 1),
        "levels": levels,
        "spawn_rate": options.spawn_rate,
        "run_time_s": options.run_time,
    }
    facts |= {
        "kinds": sorted(user.__name__ for user in environment.user_classes),
        "think_s": list(parse_range_s(options.think_s)),
    }
    _write_line(
        {"load": 1, "run_id": state.folder.name, "started_at": utc_now(), **facts, "processes": options.expect_workers}
    )


def _write_line(line: Mapping[str, Any]) -> None:
    """Append a line and flush it, so that it survives a crash of this process."""
    if state.file is not None:
        state.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        state.file.flush()
