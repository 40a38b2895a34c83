"""The replay provider: a recorded stream, replayed with its own timing and always labelled as a replay."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from providers.offline.buffered import buffer_events
from providers.offline.precise_sleep import PreciseSleeper
from streaming.adapter import ListedModel, UnpreparableRequest
from streaming.clock import Clock, monotonic
from streaming.errors import StreamError, TruncatedStreamError, UsageError
from streaming.events import Event, Failed, Finish, Notice
from streaming.messages import ChatRequest
from streaming.trace import Trace, loads


class ReplayAdapter:
    """An adapter that replays the trace in `path` for any request. Times count from the first `anext`.

    The trace is read once, on creation. A recorded failure is raised as the same error; a trace without an end is a cut
    answer. A request without streaming takes as long, and its text arrives at the end.
    """

    def __init__(self, path: str, clock: Clock = monotonic) -> None:
        """Read the trace. Raises UsageError when there is no readable trace at `path`."""
        self._trace = read_trace(path)
        self._name = Path(path).name
        self._clock = clock
        self._sleeper = PreciseSleeper(clock)

    def validate_model(self, model: str) -> None:
        """Raise UsageError unless `model` is the path of a readable trace."""
        read_trace(model)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of one answer; see `streaming.adapter.Adapter`."""
        return self._replay_events() if request.streamed else buffer_events(self._replay_events())

    async def prepare_request(self, request: ChatRequest) -> UnpreparableRequest:
        """Return that the trace is replayed in this process."""
        return UnpreparableRequest("a recorded trace is replayed in this process")

    async def list_models(self) -> list[ListedModel]:
        """Return an empty list, because a trace is named by its path."""
        return []

    async def aclose(self) -> None:
        """Do nothing, because no resources are held between requests."""

    async def _replay_events(self) -> AsyncGenerator[Event, None]:
        start_s = self._clock()
        yield Notice("connected", f"Replay of {self._name}{_describe_origin(self._trace)}: no model answers.")
        for timed in self._trace.events:
            await self._sleeper.sleep_until(start_s + timed.at_s)
            if isinstance(timed.event, Failed):
                raise error_from_failed(timed.event)
            yield timed.event
            if isinstance(timed.event, Finish):
                return
        raise TruncatedStreamError(f"trace {self._name}: no terminal event (the recorded answer was cut off)")


def read_trace(path: str) -> Trace:
    """Return the trace in a file. Raises UsageError with a one-line message."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text, or not a file name"
        raise UsageError(f"trace {path!r}: cannot be read ({reason})") from None
    return loads(text, Path(path).name)


def error_from_failed(failed: Failed) -> StreamError:
    """Return the error for a recorded failure. For an unknown kind, return a StreamError, which is never retried."""
    classes: dict[str, type[StreamError]] = {}
    for cls in _iter_error_classes(StreamError):
        classes.setdefault(cls.kind, cls)  # a class and its subclass of the same kind cannot be distinguished
    return classes.get(failed.kind, StreamError)(failed.message, http_status=failed.http_status)


def _iter_error_classes(cls: type[StreamError]) -> Iterator[type[StreamError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _iter_error_classes(below)


def _describe_origin(trace: Trace) -> str:
    names = [str(trace.header[key]) for key in ("provider", "model") if trace.header.get(key)]
    return f", recorded from {':'.join(names)}" if names else ""
