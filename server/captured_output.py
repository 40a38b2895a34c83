"""What is printed in this process, by whatever library, as JSON lines: the descriptors 1 and 2 lead into pipes.

Nothing of it is quoted, for it may be what a visitor sent: of a traceback the places and the type are told, of other
text how much there was. Before the first visitor text is told as it stands: it is about the start.
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
"""Lines that come closer together than this are told together."""
STOP_TIMEOUT_S = 2.0

_FRAME = re.compile(r'\s+File "([^"\n]{1,500})", line (\d{1,9})(?:, in .*)?')
_ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,8})(?::.*)?", re.DOTALL)
_BEGIN = "Traceback (most recent call last):"

log = logging.getLogger("streamgauge.output")


@dataclass(slots=True)
class Printed:
    """What was printed at one go."""

    chars: int = 0
    lines: int = 0
    places: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return it as a record's fields."""
        found = {"lines": self.lines, "chars": self.chars, "errors": self.errors, "places": self.places[-MAX_FRAMES:]}
        return {name: value for name, value in {**found, "text": self.text}.items() if value}


class PrintedReader:
    """Reads lines and keeps of them what is no visitor's: pure but for the modules that are loaded.

    A place counts only if it is a loaded module's file, an error only if it is the name of an exception's class.
    """

    def __init__(self) -> None:
        self._found = Printed()
        self._in_traceback = False

    def feed(self, line: str, *, trusted: bool = False) -> None:
        """Take a line without its end."""
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

    def take(self) -> Printed:
        """Return what was kept since this was last asked."""
        found, self._found = self._found, Printed()
        return found


def is_exception(name: str) -> bool:
    """Return whether a dotted name is that of an exception's class in a loaded module."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), attribute, None)
    return isinstance(found, type) and issubclass(found, BaseException)


class CapturedOutput:
    """Takes descriptors 1 and 2 while it is open. `error` and `terminal` write to where these led before."""

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
        """Take the descriptors for as long as the process lasts, or until this is left as a context."""
        self._trusted = trusted
        for number in (1, 2):
            reading, writing = os.pipe()
            os.set_inheritable(reading, False)
            os.dup2(writing, number)
            os.close(writing)
            thread = threading.Thread(target=self._read, args=(reading,), name=f"output-{number}", daemon=True)
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
        """Whether what is printed can only be about the start."""
        return self._trusted

    def distrust(self) -> None:
        """Quote nothing from now on: what is printed may be what a visitor sent."""
        self._trusted = False

    def tell(self, line: str) -> None:
        """Print a line for the person who has started this."""
        self.terminal.write(line + "\n")
        self.terminal.flush()

    def tell_ready(self, line: str) -> None:
        """Print that visitors may come from now on."""
        self.distrust()
        self.tell(line)

    def _read(self, descriptor: int) -> None:
        reader, throttle = PrintedReader(), Throttle()
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            for line in _lines(pipe.fileno(), lambda: _report(reader, throttle)):
                reader.feed(line, trusted=self._trusted)
        _report(reader, throttle)


def _report(reader: PrintedReader, throttle: Throttle) -> None:
    printed = reader.take()
    if not printed.lines or not throttle.allow(monotonic()):
        return
    fields = printed.fields()
    if left_out := throttle.take_left_out():
        fields["left_out"] = left_out
    log.warning("a library has printed something", extra={"fields": fields})


def _lines(descriptor: int, on_quiet: Callable[[], None]) -> Iterator[str]:
    """Yield lines as they come; `on_quiet` is called when for a while none has come, and after many."""
    held, count = b"", 0
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        if not waiting.poll(QUIET_S * 1000):
            on_quiet()
        data = os.read(descriptor, MAX_LINE_BYTES)
        if not data:
            break
        *whole, held = (held + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
        count += len(whole)
        if len(held) > MAX_LINE_BYTES:
            yield held.decode("utf-8", "replace")
            held = b""
        if count >= MAX_LINES:
            on_quiet()
            count = 0
    if held:
        yield held.decode("utf-8", "replace")
