"""Redirection of standard output and standard error, descriptors 1 and 2, into the JSON log.

Whatever a library prints may contain a caller's text, so nothing is quoted: a traceback is logged as its file positions
and exception types, other text as its number of lines and characters. Until the service accepts requests, text can
only be about the start, and is logged in full.
"""

import logging
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from server.logging_config import MAX_FRAMES, MAX_TEXT_CHARS, Throttle, iterate_known_files
from streaming.clock import monotonic

MAX_LINE_BYTES = 65_536
MAX_LINES = 500
QUIET_S = 0.2
"""Lines printed within this time of each other are logged as one record."""
STOP_TIMEOUT_S = 2.0

_FRAME = re.compile(r'\s+File "([^"\n]{1,500})", line (\d{1,9})(?:, in .*)?')
_ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,8})(?::.*)?", re.DOTALL)
_BEGIN = "Traceback (most recent call last):"

log = logging.getLogger("streamgauge.output")


@dataclass(slots=True)
class OutputSummary:
    """The parts of a burst of printed lines that are safe to log."""

    chars: int = 0
    lines: int = 0
    places: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the log record, without the empty ones."""
        result = {"lines": self.lines, "chars": self.chars, "errors": self.errors, "places": self.places[-MAX_FRAMES:]}
        return {name: value for name, value in {**result, "text": self.text}.items() if value}


class OutputReader:
    """A parser of printed lines that keeps only what cannot be a caller's text. Does no I/O.

    A file position is kept only if the file belongs to a loaded module, and an error only if it names an exception
    class of a loaded module.
    """

    def __init__(self) -> None:
        self._found = OutputSummary()
        self._in_traceback = False

    def feed(self, line: str, *, trusted: bool = False) -> None:
        """Parse one line without its line ending; keep its text only if it is `trusted`."""
        self._found.lines += 1
        self._found.chars += len(line)
        if trusted and line.strip():
            self._found.text.append(line[:MAX_TEXT_CHARS])
        if line.endswith(_BEGIN):
            self._in_traceback = True
        elif self._in_traceback and (frame := _FRAME.fullmatch(line)) is not None:
            if frame[1] in set(iterate_known_files()):
                self._found.places.append(f"{frame[1]}:{frame[2]}")
        elif self._in_traceback and line and not line[0].isspace():
            self._in_traceback = False
            error = _ERROR.fullmatch(line)
            if error is not None and is_exception(error[1]):
                self._found.errors.append(error[1])

    def take(self) -> OutputSummary:
        """Return the summary of the lines since the last call, and start a new one."""
        summary, self._found = self._found, OutputSummary()
        return summary


def is_exception(name: str) -> bool:
    """Return whether a dotted name is an exception class of a loaded module or of the builtins."""
    module, _, attribute = name.rpartition(".")
    value = getattr(sys.modules.get(module or "builtins"), attribute, None)
    return isinstance(value, type) and issubclass(value, BaseException)


class CapturedOutput:
    """A context in which descriptors 1 and 2 are captured and logged.

    `terminal` and `error` are the original standard output and standard error.
    """

    def __init__(self) -> None:
        self._saved = {number: os.dup(number) for number in (1, 2)}
        self.terminal: TextIO = os.fdopen(os.dup(self._saved[1]), "w", buffering=1, encoding="utf-8", errors="replace")
        self.error: TextIO = os.fdopen(
            os.dup(self._saved[2]), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )
        self._trusted = True
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "CapturedOutput":
        self.open()
        return self

    def open(self, *, trusted: bool = True) -> None:
        """Capture the descriptors until the context is left, or else until the process ends.

        While `trusted`, printed text is logged in full.
        """
        self._trusted = trusted
        for number in (1, 2):
            reader, writer = os.pipe()
            os.set_inheritable(reader, False)
            os.dup2(writer, number)
            os.close(writer)
            thread = threading.Thread(target=self._read, args=(reader,), name=f"output-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in self._saved.items():
            os.dup2(saved, number)
            os.close(saved)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)

    @property
    def trusted(self) -> bool:
        """Whether printed text can only be about the start of the service."""
        return self._trusted

    def distrust(self) -> None:
        """Quote nothing from now on: printed text may contain what a caller sent."""
        self._trusted = False

    def print_line(self, line: str) -> None:
        """Print a line on the original standard output, for the operator."""
        self.terminal.write(line + "\n")
        self.terminal.flush()

    def print_ready(self, line: str) -> None:
        """Print that the service is ready, and quote nothing from now on."""
        self.distrust()
        self.print_line(line)

    def _read(self, descriptor: int) -> None:
        reader, throttle = OutputReader(), Throttle()
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            for line in _lines(pipe.fileno(), lambda: _report(reader, throttle)):
                reader.feed(line, trusted=self._trusted)
        _report(reader, throttle)


def _report(reader: OutputReader, throttle: Throttle) -> None:
    printed = reader.take()
    if not printed.lines or not throttle.allow(monotonic()):
        return
    fields = printed.fields()
    if left_out := throttle.take_left_out():
        fields["left_out"] = left_out
    log.warning("output of a library", extra={"fields": fields})


def _lines(descriptor: int, on_quiet: Callable[[], None]) -> Iterator[str]:
    """Yield the lines that arrive on a descriptor until it is closed.

    `on_quiet` is called after `QUIET_S` without a line, and after every `MAX_LINES` lines.
    """
    rest, count = b"", 0
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        if not waiting.poll(QUIET_S * 1000):
            on_quiet()
        data = os.read(descriptor, MAX_LINE_BYTES)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
        count += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            yield rest.decode("utf-8", "replace")
            rest = b""
        if count >= MAX_LINES:
            on_quiet()
            count = 0
    if rest:
        yield rest.decode("utf-8", "replace")
