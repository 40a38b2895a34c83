"""A recorded stream, played again with its own timing, and always called a replay."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from providers.offline.buffered import buffer_events
from providers.offline.precise_sleep import PreciseSleeper
from streaming.clock import Clock, monotonic
from streaming.errors import StreamError, TruncatedStreamError, UsageError
from streaming.events import Event, Failed, Finish, Notice
from streaming.messages import ChatRequest
from streaming.trace import Trace, loads


class ReplayAdapter:
    """Plays the trace in `path`, whatever is asked; times count from the first `anext`.

    The trace is read once, here. What failed in it is raised as the same error; a trace with no end is a cut answer.
    A request that is not streamed takes as long, and its text comes at the end.
    """

    def __init__(self, path: str, clock: Clock = monotonic) -> None:
        """Raise UsageError when there is no readable trace at `path`."""
        self._trace = read_trace(path)
        self._name = Path(path).name
        self._clock = clock
        self._moments = PreciseSleeper(clock)

    def validate_model(self, model: str) -> None:
        """Raise UsageError unless `model` is the path of a readable trace."""
        read_trace(model)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return self._replay_events() if request.streamed else buffer_events(self._replay_events())

    async def aclose(self) -> None:
        """Nothing is held between requests."""

    async def _replay_events(self) -> AsyncGenerator[Event, None]:
        start_s = self._clock()
        yield Notice("connected", f"Replay of {self._name}{_describe_origin(self._trace)}: no model answers.")
        for timed in self._trace.events:
            await self._moments.sleep_until(start_s + timed.at_s)
            if isinstance(timed.event, Failed):
                raise error_from_failed(timed.event)
            yield timed.event
            if isinstance(timed.event, Finish):
                return
        raise TruncatedStreamError(f"the trace {self._name} has no end: the recorded answer was cut")


def read_trace(path: str) -> Trace:
    """Read the trace in a file. Raises UsageError in one line."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text in UTF-8, or not a file's name"
        raise UsageError(f"cannot read the trace {path!r}: {reason}") from None
    return loads(text, Path(path).name)


def error_from_failed(failed: Failed) -> StreamError:
    """Give the error that a recorded failure was; of a kind that is not known, one that nothing is done about."""
    classes: dict[str, type[StreamError]] = {}
    for cls in _iter_error_classes(StreamError):
        classes.setdefault(cls.kind, cls)  # a subclass of the same kind cannot be told from it
    return classes.get(failed.kind, StreamError)(failed.message, http_status=failed.http_status)


def _iter_error_classes(cls: type[StreamError]) -> Iterator[type[StreamError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _iter_error_classes(below)


def _describe_origin(trace: Trace) -> str:
    names = [str(trace.header[key]) for key in ("provider", "model") if trace.header.get(key)]
    return f", recorded from {':'.join(names)}" if names else ""
