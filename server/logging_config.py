"""Structured logs: one JSON object a line on the standard error, no prompt and no key in any.

Nothing that a visitor sent is in any line: of an exception its type and place are told, not its message; of a library's
own record its place. What a library prints instead of logging is taken by `server.captured_output`.
"""

import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from streaming.clock import Clock, monotonic

OWN = ("streamgauge", "streaming", "guard", "providers", "simulator", "server", "clients", "ui", "evaluation")
"""Loggers whose words are this project's own."""
FIXED = ("uvicorn", "asyncio")
"""Libraries whose messages begin with a line that is always the same."""
MAX_TEXT_CHARS = 200
MAX_FRAMES = 60
MAX_RECORDS = 50
"""Records of libraries within `RECORDS_WINDOW_S`; what is more is counted."""
RECORDS_WINDOW_S = 10.0

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object; `masked` takes secrets out of whatever text there is.

    `quote` says whether libraries and exceptions are quoted: only before the first visitor has sent anything.
    """

    def __init__(self, masked: Callable[[str], str], quote: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._masked = masked
        self._quote = quote

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage() if self._quote() else describe_event(record),
            **getattr(record, "fields", {}),
        }
        if not is_own(record.name):
            fields["place"] = f"{record.module}:{record.lineno}"
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self._masked(json.dumps(fields, default=str, ensure_ascii=False, separators=(",", ":")))

    def formatException(self, ei: _ExcInfo) -> str:  # logging's own name
        if ei[1] is None:
            return ""
        return super().formatException(ei) if self._quote() else "\n".join(describe_exception(ei[1]))


def is_own(logger: str) -> bool:
    """Return whether a logger is this project's."""
    return logger.partition(".")[0] in OWN


def describe_event(record: logging.LogRecord) -> str:
    """Return a record's message; of a library's only what cannot come from a visitor."""
    if is_own(record.name):
        return record.getMessage()
    if record.name.partition(".")[0] in FIXED:
        return str(record.msg).partition("\n")[0][:MAX_TEXT_CHARS]
    return "a library has logged something: look at its place"


def describe_exception(error: BaseException) -> list[str]:
    """Return the types and places of an exception and of what it came from, innermost first; no message."""
    lines: list[str] = []
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen and len(lines) < MAX_FRAMES:
        seen.add(id(found))
        frames = traceback.extract_tb(found.__traceback__)[-MAX_FRAMES:]
        places = [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames]
        lines = [*places, f"{type(found).__module__}.{type(found).__qualname__}", *lines]
        if isinstance(found, BaseExceptionGroup):
            lines += [f"  with {type(one).__module__}.{type(one).__qualname__}" for one in found.exceptions[:8]]
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return lines


class Throttle:
    """Lets through so many records within a window, and counts the others. `now` is an argument."""

    def __init__(self, most: int = MAX_RECORDS, window_s: float = RECORDS_WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._since_s = float("-inf")
        self._passed = 0
        self.left_out = 0

    def allow(self, now: float) -> bool:
        """Return whether one more record may be written."""
        if now - self._since_s >= self._window_s:
            self._since_s, self._passed = now, 0
        self._passed += 1
        if self._passed > self._most:
            self.left_out += 1
            return False
        return True

    def take_left_out(self) -> int:
        """Return how many records were left out since this was last asked."""
        count, self.left_out = self.left_out, 0
        return count


class LibraryFilter(logging.Filter):
    """Bounds how much libraries log: junk that is sent for hours does not fill a disk."""

    def __init__(self, clock: Clock = monotonic) -> None:
        super().__init__()
        self._throttle = Throttle()
        self._clock = clock

    def filter(self, record: logging.LogRecord) -> bool:
        if is_own(record.name):
            return True
        if not self._throttle.allow(self._clock()):
            return False
        if left_out := self._throttle.take_left_out():
            record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
        return True


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Leave out what cannot be written: logging would quote it on the standard error."""


def configure_logging(
    masked: Callable[[str], str], stream: TextIO | None = None, quote: Callable[[], bool] = lambda: False
) -> None:
    """Send all logs of this process to `stream` as JSON lines: answers as they end, other rooms' warnings.

    Without `stream` they go to the standard error. `quote`: see `JsonFormatter`.
    """
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter(masked, quote))
    handler.addFilter(LibraryFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("streamgauge").setLevel(logging.INFO)
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    fields = {"category": category.__name__, "file": filename, "line": lineno}
    logging.getLogger("streamgauge.output").warning("a library has warned", extra={"fields": fields})


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("streamgauge.output").critical("the service broke", exc_info=(kind, error, trace))


def iterate_known_files() -> Iterator[str]:
    """Yield the files of all modules that are loaded."""
    for module in list(sys.modules.values()):
        if isinstance(path := getattr(module, "__file__", None), str):
            yield path
