"""Calibration of this machine, with the instrument and the simulator in separate processes."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from evaluation.calibration.machine import describe_machine
from evaluation.calibration.model import (
    CONNECTION_KINDS,
    Calibration,
    CalibrationRow,
    ObservedAnswer,
    compare_with_log,
    write_calibration,
)
from simulator.certificate import make_self_signed
from simulator.server import read_log
from streaming.clock import utc_now
from streaming.errors import UsageError
from streaming.os_limits import raise_fd_limit

TOKENS = 64
GAP_MS = 20.0
MAX_STREAMS = 4096
_MIN_ANSWERS = 4
"""The smallest number of answers per row: with fewer streams than this, each sends more than one request."""
_ROUND_TIMEOUT_S = 30.0
"""Seconds allowed for a round of answers; it normally takes 1.5 s."""
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The options of a calibration; `within_ms` is the p99 error that is accepted."""

    streams: tuple[int, ...]
    ways: tuple[str, ...] = CONNECTION_KINDS
    within_ms: float = 1.0


def parse_options(streams: str, ways: str, within_ms: float) -> CalibrationOptions:
    """Parse the options, such as `1,16` streams and `plain,tls` ways. Raises UsageError when a value is invalid."""
    try:
        numbers = sorted({int(text) for text in streams.split(",")})
    except ValueError:
        raise UsageError(f"--streams {streams!r}: not a list of numbers (write for example 1,16,64)") from None
    if numbers[0] < 1 or numbers[-1] > MAX_STREAMS:
        raise UsageError(f"--streams: out of range (use 1 to {MAX_STREAMS})")
    chosen = tuple(way.strip() for way in ways.split(","))
    if strange := [way for way in chosen if way not in CONNECTION_KINDS]:
        raise UsageError(f"--ways: {strange[0]!r} is unknown (use {' or '.join(CONNECTION_KINDS)})")
    if not 0 < within_ms < float("inf"):
        raise UsageError("--within-ms: not a time (use a number above 0)")
    return CalibrationOptions(tuple(numbers), tuple(way for way in CONNECTION_KINDS if way in chosen), within_ms)


def calibrate_to_file(options: CalibrationOptions, file: Path) -> Calibration:
    """Calibrate and write the result to `file`, replacing it.

    Raises UsageError when a process fails, or, before anything is measured, when the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UsageError(f"--out {file}: {error.strerror} (choose a file that can be written)") from None
    made = calibrate(options)
    write_calibration(file, made)
    return made


def calibrate(options: CalibrationOptions, console: Console | None = None) -> Calibration:
    """Measure all rows, which takes some seconds each. Progress is shown on `console`, or on stderr if it is None.

    TLS is left out, with the reason in the result, if no certificate can be made. Raises UsageError when a process
    fails.
    """
    raise_fd_limit(max(options.streams))  # child processes inherit it
    made_at, machine = utc_now(), describe_machine()
    sources, real_time, rows = set[str](), True, list[CalibrationRow]()
    with tempfile.TemporaryDirectory() as folder, _CalibrationProgress(console or Console(stderr=True)) as progress:
        certificates, left_out = _make_certificates(options, Path(folder))
        steps = [(way, streams) for way in options.ways if way not in left_out for streams in options.streams]
        if not steps:
            raise UsageError(f"--ways: nothing to measure ({'; '.join(left_out.values())})")
        for done, (way, streams) in enumerate(steps):
            progress.set_stage(f"calibrating {way}, {streams} at a time", done, len(steps))
            result, log = _measure_streams(streams, certificates if way == "tls" else None)
            observed = [ObservedAnswer(**one) for one in result["observed"]]
            sources |= {one.stamp_source for one in observed}
            real_time = real_time and bool(result["real_time_priority"])
            rows.append(compare_with_log(way, streams, observed, log, result["cpu_s"]))
        progress.set_stage("calibrated", len(steps), len(steps))
    return Calibration(
        made_at=made_at,
        within_ms=options.within_ms,
        tokens=TOKENS,
        gap_ms=GAP_MS,
        real_time_priority=real_time,
        stamp_source="kernel" if sources == {"kernel"} else "callback",
        rows=tuple(rows),
        left_out=left_out,
        **machine,
    )


def _make_certificates(options: CalibrationOptions, folder: Path) -> tuple[tuple[str, str] | None, dict[str, str]]:
    """Return the certificate and key files if TLS was requested, and the connection kinds left out without them."""
    if "tls" not in options.ways:
        return None, {}
    try:
        return make_self_signed(folder), {}
    except (OSError, subprocess.SubprocessError) as error:
        reason = "is not installed" if isinstance(error, FileNotFoundError) else "failed"
        return None, {"tls": f"no certificate: the openssl program {reason}"}


def _measure_streams(streams: int, certificates: tuple[str, str] | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the worker's result and the server's log for one number of streams."""
    rounds = -(-_MIN_ANSWERS // streams)
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder, "log.jsonl"))
        with _run_simulator(log, certificates) as url:
            command = [sys.executable, "-m", "evaluation.calibration.worker", "--url", f"{url}/v1"]
            command += ["--streams", str(streams), "--rounds", str(rounds)]
            command += ["--ca-file", certificates[0]] if certificates else []
            result = _run_client(command, _ROUND_TIMEOUT_S * (rounds + 1))
        return result, read_log(log)


def _run_client(command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(f"answers: not complete after {timeout_s:g} s (try fewer --streams)") from None
    if done.returncode:
        raise UsageError(f"instrument: failed: {_last_stderr_line(done.stderr)}")
    data: dict[str, Any] = json.loads(done.stdout)
    return data


@contextmanager
def _run_simulator(log: str, certificates: tuple[str, str] | None) -> Iterator[str]:
    """Start a simulator on a free port and yield its URL. On exit the simulator has ended and its log is complete."""
    command = [sys.executable, "-m", "simulator", "--tokens", str(TOKENS), "--gap-ms", f"{GAP_MS:g}", "--log", log]
    command += ["--tls-cert", certificates[0], "--tls-key", certificates[1]] if certificates else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None  # they are pipes
        try:
            words = process.stdout.readline().split()
            if not words:
                raise UsageError(f"simulator: did not start: {_last_stderr_line(process.stderr.read())}")
            yield words[-1]
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _last_stderr_line(text: str) -> str:
    return (text.strip().splitlines() or ["no error message"])[-1]


class _CalibrationProgress:
    """A bar on a terminal, one line per step elsewhere. It is drawn between measurements only, without a thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
        self._bar = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
        self._task = self._bar.add_task("calibrating", total=None)

    def __enter__(self) -> "_CalibrationProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def set_stage(self, stage: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=stage, completed=done, total=total)
        self._bar.refresh()
        if not self._console.is_terminal:
            self._console.print(f"{stage}: {done}/{total}", highlight=False, markup=False, emoji=False, soft_wrap=True)
