"""Structured logs: one JSON object per line on standard error, without prompts and API keys.

No line contains what a caller sent. An exception is logged with its type and its stack frames but not its message, and
a library's record with its position in the code only. `server.captured_output` handles what libraries print.
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
"""The top-level loggers of this project; their messages are logged in full."""
FIXED = ("uvicorn", "asyncio")
"""Loggers of libraries whose message templates begin with a constant line, which is safe to log."""
MAX_TEXT_CHARS = 200
MAX_FRAMES = 60
MAX_RECORDS = 50
"""The number of library records logged within `RECORDS_WINDOW_S`; further records are only counted."""
RECORDS_WINDOW_S = 10.0

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class JsonFormatter(logging.Formatter):
    """A formatter that writes each record as one JSON object, with secrets removed by `mask`.

    `quote` returns whether the messages of libraries and exceptions may be logged: only before the service accepts
    requests.
    """

    def __init__(self, mask: Callable[[str], str], quote: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._mask = mask
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
        return self._mask(json.dumps(fields, default=str, ensure_ascii=False, separators=(",", ":")))

    def formatException(self, ei: _ExcInfo) -> str:  # logging's own name
        if ei[1] is None:
            return ""
        return super().formatException(ei) if self._quote() else "\n".join(describe_exception(ei[1]))


def is_own(logger: str) -> bool:
    """Return whether a logger belongs to this project."""
    return logger.partition(".")[0] in OWN


def describe_event(record: logging.LogRecord) -> str:
    """Return a record's message; for a library's record only what cannot contain a caller's text."""
    if is_own(record.name):
        return record.getMessage()
    if record.name.partition(".")[0] in FIXED:
        return str(record.msg).partition("\n")[0][:MAX_TEXT_CHARS]
    return "log record of a library (its place is in the field `place`)"


def describe_exception(error: BaseException) -> list[str]:
    """Return the types and stack frames of an exception and of its causes, the first cause first, without messages."""
    lines: list[str] = []
    seen: set[int] = set()
    result: BaseException | None = error
    while result is not None and id(result) not in seen and len(lines) < MAX_FRAMES:
        seen.add(id(result))
        frames = traceback.extract_tb(result.__traceback__)[-MAX_FRAMES:]
        places = [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames]
        lines = [*places, f"{type(result).__module__}.{type(result).__qualname__}", *lines]
        if isinstance(result, BaseExceptionGroup):
            lines += [f"  with {type(one).__module__}.{type(one).__qualname__}" for one in result.exceptions[:8]]
        result = result.__cause__ or (None if result.__suppress_context__ else result.__context__)
    return lines


class Throttle:
    """A limit on the number of records within a time window, which counts the records left out."""

    def __init__(self, most: int = MAX_RECORDS, window_s: float = RECORDS_WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._since_s = float("-inf")
        self._passed = 0
        self.left_out = 0

    def allow(self, now: float) -> bool:
        """Return whether one more record may be written at the time `now`, in seconds."""
        if now - self._since_s >= self._window_s:
            self._since_s, self._passed = now, 0
        self._passed += 1
        if self._passed > self._most:
            self.left_out += 1
            return False
        return True

    def take_left_out(self) -> int:
        """Return how many records were left out since the last call."""
        count, self.left_out = self.left_out, 0
        return count


class LibraryFilter(logging.Filter):
    """A filter that limits how much libraries log, so that hours of malformed requests cannot fill a disk."""

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
        """Drop a record that cannot be written: the default handler would quote it on standard error."""


def configure_logging(
    mask: Callable[[str], str], stream: TextIO | None = None, quote: Callable[[], bool] = lambda: False
) -> None:
    """Send all logs of this process to `stream` as JSON lines; the default stream is standard error.

    The loggers under `streamgauge`, which log each answer, write from level INFO, all others from WARNING. Python's
    warnings and uncaught exceptions are logged too. For `mask` and `quote` see `JsonFormatter`.
    """
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter(mask, quote))
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
    logging.getLogger("streamgauge.output").warning("warning of a library", extra={"fields": fields})


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("streamgauge.output").critical("the service failed", exc_info=(kind, error, trace))


def iterate_known_files() -> Iterator[str]:
    """Yield the file of each loaded module that has one."""
    for module in list(sys.modules.values()):
        if isinstance(path := getattr(module, "__file__", None), str):
            yield path
