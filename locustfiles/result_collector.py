"""From users on any number of workers to one folder: every answer is a message to the master, which writes it down.

The folder's `answers.jsonl` has a header and a line an answer; `python -m evaluation.load_test report FOLDER`, run when
the test ends, makes of it the rows, tables and report of an evaluation. That is a process of its own: gevent must not
meet asyncio code.

A test ends in order. Whoever stops it, nobody asks anything new, what is under way may end within `--drain-s`, and the
master goes when every worker has said that it is done: its last answers came before, by the same way.
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
from load_options import parse_range_s
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from streaming.clock import utc_now
from streaming.os_limits import set_realtime_priority

ANSWERS_FILE = "answers.jsonl"
_POLL_INTERVAL_S = 0.05
_SLICE_ITEMS = 8
T = TypeVar("T")
_PROJECT_ROOT = Path(__file__).resolve().parent.parent


class _CollectorState:
    """What this process knows of the test."""

    def __init__(self) -> None:
        self.open_answers = 0
        self.closing = False
        self.ramping = True
        self.real_time = False
        self.gone_workers: set[str] = set()
        self.folder: Path | None = None
        self.file: IO[str] | None = None
        self.never = Event()


state = _CollectorState()


@contextmanager
def open_answer(environment: Environment, answer: AnswerRecord) -> Iterator[None]:
    """Count an answer as open meanwhile, and report it when it is over, even when its user is killed."""
    state.open_answers += 1
    try:
        yield
    finally:
        state.open_answers -= 1
        if environment.runner is not None:
            environment.runner.send_message("answer", answer.as_dict())


class DecodingTurns:
    """Has one user at a time work on what it heard, in slices: all others go on reading between two of them.

    What is read late has its own stamp all the same, unless the next bytes have joined it in the socket by then.
    """

    def __init__(self) -> None:
        self._turn = BoundedSemaphore(1)

    @contextmanager
    def slices(self, items: Sequence[T]) -> Iterator[Iterator[T]]:
        """Give the items, with a rest after every few; the turn is over on leaving, wherever the reading broke off."""
        with self._turn:
            yield _yield_between_slices(items)


def _yield_between_slices(items: Sequence[T]) -> Iterator[T]:
    for start in range(0, len(items), _SLICE_ITEMS):
        yield from items[start : start + _SLICE_ITEMS]
        gevent.sleep(0)


turns = DecodingTurns()


def wait_while_closing() -> None:
    """Return at once during the test; once it is ending, never: the user is ended here."""
    if state.closing:
        state.never.wait()


@events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: object) -> None:
    runner.register_message("last_orders", _on_drain_request, concurrent=True)
    if not isinstance(runner, WorkerRunner):
        runner.register_message("answer", _on_answer)
        runner.register_message("done", _on_worker_done)
        _open_answers_file(environment)


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: object) -> None:
    state.closing, state.ramping = False, True
    # What is here stays: walking through it while answers are under way would hold up their reading.
    gc.collect()
    gc.freeze()
    options = environment.parsed_options
    if state.file is not None and not state.file.tell() and options is not None:
        _write_head(environment, options)
    if not isinstance(environment.runner, MasterRunner) and options is not None and options.real_time:
        state.real_time = set_realtime_priority()


@events.test_stop.add_listener
def _on_test_stop(environment: Environment, **_: object) -> None:
    if state.real_time:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        state.real_time = False
    state.gone_workers.clear()


@events.spawning_complete.add_listener
def _on_spawning_complete(user_count: int, **_: object) -> None:
    state.ramping = False


@events.test_stopping.add_listener
def _on_test_stopping(environment: Environment, **_: object) -> None:
    """Have what is under way end, here or on the workers."""
    runner, options = environment.runner, environment.parsed_options
    if isinstance(runner, WorkerRunner) or options is None:
        return
    if not isinstance(runner, MasterRunner):
        _drain(options.drain_s)
        return
    asked = {client.id for client in runner.clients.all}
    runner.send_message("last_orders", {"drain_s": options.drain_s})
    until_s = time.monotonic() + options.drain_s + 5
    while asked - state.gone_workers and asked & set(runner.clients) and time.monotonic() < until_s:
        gevent.sleep(_POLL_INTERVAL_S)


@events.quitting.add_listener
def _on_quitting(environment: Environment, **_: object) -> None:
    """Close the file, and have the report made, whose exit code is this test's."""
    if isinstance(environment.runner, WorkerRunner) or environment.parsed_options is None or state.file is None:
        return
    if environment.runner is not None:
        environment.runner.quit()
    _write_line({"ended_at": utc_now()})
    state.file.close()
    state.file = None
    if environment.parsed_options.report:
        command = [sys.executable, "-m", "evaluation.load_test", "report", str(state.folder)]
        command += ["--slo", environment.parsed_options.slo] if environment.parsed_options.slo else []
        environment.process_exit_code = subprocess.run(command, cwd=_PROJECT_ROOT, check=False).returncode


def _on_drain_request(environment: Environment, msg: Any, **_: object) -> None:
    """Worker: end in order, and say so after everything else was said."""
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


def _open_answers_file(environment: Environment) -> None:
    """Make the folder and the file, before any answer."""
    options = environment.parsed_options
    if options is None:
        return
    if options.headless and not environment.host:
        sys.exit("error: say who is to be loaded: -H http://127.0.0.1:7860")
    folder = Path(options.out or Path("out", f"load-{datetime.now(UTC):%Y%m%d-%H%M%S}")).absolute()
    if (folder / ANSWERS_FILE).exists():
        sys.exit(f"error: --out {options.out} holds a load test: choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    state.folder, state.file = folder, (folder / ANSWERS_FILE).open("a", encoding="utf-8")


def _write_head(environment: Environment, options: Any) -> None:
    """Write what is asked for: on Locust's page that is known when its first test starts."""
    assert state.folder is not None
    names = ("provider", "strategy", "model", "max_tokens", "cancel_rate", "reconnect_rate", "slow_rate", "shape")
    facts: dict[str, Any] = {name: getattr(options, name) for name in names}
    facts |= {"users": options.num_users or 1, "spawn_rate": options.spawn_rate, "run_time_s": options.run_time}
    facts |= {
        "kinds": sorted(user.__name__ for user in environment.user_classes),
        "think_s": list(parse_range_s(options.think_s)),
    }
    _write_line(
        {"load": 1, "run_id": state.folder.name, "started_at": utc_now(), **facts, "processes": options.expect_workers}
    )


def _write_line(line: Mapping[str, Any]) -> None:
    """Add a line, in the system's hands at once."""
    if state.file is not None:
        state.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        state.file.flush()
