"""The replay provider: events at their recorded times, and the same end as the recording."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from providers.offline.replay import ReplayAdapter, error_from_failed
from streaming import errors
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage
from streaming.messages import ChatRequest, Message
from streaming.trace import dumps
from tests.virtual_time import loop_clock, run_on_virtual_time

REQUEST = ChatRequest((Message("user", "Again, please."),), "trace.jsonl")
HEALTHY_EVENTS = (
    TimedEvent(0.05, Notice("connected", "The service answers.")),
    TimedEvent(0.3, ThinkingDelta("Let me see.")),
    TimedEvent(0.5, TextDelta("Red, ")),
    TimedEvent(0.5, TextDelta("green, ")),
    TimedEvent(2.0, TextDelta("blue.")),
    TimedEvent(2.25, Usage(5, 9, 3)),
    TimedEvent(2.25, Finish("stop", "end_turn")),
)


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(dumps({"provider": "openai", "model": "m"}, HEALTHY_EVENTS), encoding="utf-8")
    return path


def replay_file(path: Path, *, streamed: bool = True) -> list[TimedEvent]:
    async def main() -> list[TimedEvent]:
        now = loop_clock()
        adapter, start_s, result = ReplayAdapter(str(path), now), now(), []
        request = ChatRequest(REQUEST.messages, str(path), streamed=streamed)
        async with aclosing(adapter.stream(request)) as events:
            async for event in events:
                result.append(TimedEvent(now() - start_s, event))
        return result

    return run_on_virtual_time(main(), start_s=3.0)


def write_trace(path: Path, *events: tuple[float, Event]) -> Path:
    path.write_text(dumps({}, [TimedEvent(at_s, event) for at_s, event in events]), encoding="utf-8")
    return path


def test_replay_yields_events_at_recorded_times(trace_file: Path) -> None:
    result = replay_file(trace_file)
    assert [t.event for t in result[1:]] == [t.event for t in HEALTHY_EVENTS]
    assert [t.at_s for t in result[1:]] == pytest.approx([t.at_s for t in HEALTHY_EVENTS])


def test_replay_starts_with_notice_naming_trace(trace_file: Path) -> None:
    first = replay_file(trace_file)[0]
    assert first.at_s == 0.0
    assert isinstance(first.event, Notice) and first.event.kind == "connected"
    assert "Replay of trace.jsonl" in first.event.message and "openai:m" in first.event.message


def test_replay_without_streaming_yields_text_at_end(trace_file: Path) -> None:
    result = replay_file(trace_file, streamed=False)
    assert [t for t in result if isinstance(t.event, TextDelta)] == [TimedEvent(2.25, TextDelta("Red, green, blue."))]
    assert result[-1] == TimedEvent(2.25, Finish("stop", "end_turn"))


def test_replay_can_be_repeated(trace_file: Path) -> None:
    async def main() -> list[list[Event]]:
        adapter = ReplayAdapter(str(trace_file), loop_clock())
        return [[event async for event in adapter.stream(REQUEST)] for _ in range(2)]

    first, second = run_on_virtual_time(main())
    assert first == second


def test_trace_without_end_raises_truncated_stream(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "cut.jsonl", (0.1, TextDelta("Red, ")))
    with pytest.raises(errors.TruncatedStreamError, match=r"cut\.jsonl: no terminal event"):
        replay_file(path)


def test_recorded_failure_is_raised_at_its_time(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.jsonl", (0.1, TextDelta("Red")), (0.4, Failed("server_error", "it broke", 503)))

    async def main() -> tuple[float, errors.StreamError]:
        with pytest.raises(errors.ServerError) as excinfo:
            [event async for event in ReplayAdapter(str(path), loop_clock()).stream(REQUEST)]
        return loop_clock()(), excinfo.value

    at_s, error = run_on_virtual_time(main())
    assert at_s == pytest.approx(0.4)
    assert (error.message, error.http_status) == ("it broke", 503)


@pytest.mark.parametrize(
    "cls",
    [
        errors.NetworkError,
        errors.ConnectTimeout,
        errors.FirstContentTimeout,
        errors.IdleTimeout,
        errors.TotalTimeout,
        errors.BadRequestError,
        errors.AuthenticationError,
        errors.NotFoundError,
        errors.RateLimitError,
        errors.ServerError,
        errors.TruncatedStreamError,
        errors.ProtocolError,
    ],
)
def test_recorded_failure_kind_maps_to_error_class(cls: type[errors.StreamError]) -> None:
    assert type(error_from_failed(Failed(cls.kind, "m"))) is cls


def test_unknown_failure_kind_is_not_retried() -> None:
    error = error_from_failed(Failed("of-another-version", "m"))
    assert type(error) is errors.StreamError and error.recovery == "fail"


def test_event_after_end_is_rejected(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.jsonl", (0.1, Finish("stop")), (0.2, TextDelta("more")))
    with pytest.raises(errors.UsageError, match="line 3: an event after the end"):
        replay_file(path)


def test_non_trace_file_is_rejected_in_one_line(tmp_path: Path) -> None:
    binary, other = tmp_path / "binary", tmp_path / "other"
    binary.write_bytes(b"\xff\xfe\x00")
    other.write_text("hello\n")
    for path in (tmp_path / "missing", tmp_path, binary, other, Path("nul\0byte")):
        with pytest.raises(errors.UsageError) as excinfo:
            ReplayAdapter(str(path))
        assert "\n" not in str(excinfo.value)
        assert path.name.replace("\0", "\\x00") in str(excinfo.value)


def test_validate_model_reads_trace_file(trace_file: Path) -> None:
    adapter = ReplayAdapter(str(trace_file))
    adapter.validate_model(str(trace_file))
    with pytest.raises(errors.UsageError, match="No such file"):
        adapter.validate_model(str(trace_file) + ".gone")


def test_closing_while_waiting_ends_replay(trace_file: Path) -> None:
    async def main() -> int:
        events = ReplayAdapter(str(trace_file), loop_clock()).stream(REQUEST)
        await anext(events)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])
        await events.aclose()
        return len(asyncio.all_tasks())

    assert run_on_virtual_time(main()) == 1
