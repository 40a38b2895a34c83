"""A replay keeps the recorded times, and ends as the recording ended."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from providers.replayed import ReplayAdapter, error_of
from streaming import errors
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Timed, Usage
from streaming.messages import ChatRequest, Message
from streaming.trace import dumps
from tests.virtual_time import clock, run_virtual

ASKED = ChatRequest((Message("user", "Again, please."),), "trace.jsonl")
HEALTHY = (
    Timed(0.05, Notice("connected", "The service answers.")),
    Timed(0.3, ThinkingDelta("Let me see.")),
    Timed(0.5, TextDelta("Red, ")),
    Timed(0.5, TextDelta("green, ")),
    Timed(2.0, TextDelta("blue.")),
    Timed(2.25, Usage(5, 9, 3)),
    Timed(2.25, Finish("stop", "end_turn")),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(dumps({"provider": "openai", "model": "m"}, HEALTHY), encoding="utf-8")
    return path


def play(path: Path, *, streamed: bool = True) -> list[Timed]:
    async def main() -> list[Timed]:
        now = clock()
        adapter, start_s, found = ReplayAdapter(str(path), now), now(), []
        request = ChatRequest(ASKED.messages, str(path), streamed=streamed)
        async with aclosing(adapter.stream(request)) as events:
            async for event in events:
                found.append(Timed(now() - start_s, event))
        return found

    return run_virtual(main(), start_s=3.0)


def write(path: Path, *events: tuple[float, Event]) -> Path:
    path.write_text(dumps({}, [Timed(at_s, event) for at_s, event in events]), encoding="utf-8")
    return path


def test_events_come_at_their_recorded_times(file: Path) -> None:
    found = play(file)
    assert [t.event for t in found[1:]] == [t.event for t in HEALTHY]
    assert [t.at_s for t in found[1:]] == pytest.approx([t.at_s for t in HEALTHY])


def test_the_first_event_says_that_it_is_a_replay_and_of_what(file: Path) -> None:
    first = play(file)[0]
    assert first.at_s == 0.0
    assert isinstance(first.event, Notice) and first.event.kind == "connected"
    assert "Replay of trace.jsonl" in first.event.message and "openai:m" in first.event.message


def test_without_streaming_the_text_comes_at_the_end(file: Path) -> None:
    found = play(file, streamed=False)
    assert [t for t in found if isinstance(t.event, TextDelta)] == [Timed(2.25, TextDelta("Red, green, blue."))]
    assert found[-1] == Timed(2.25, Finish("stop", "end_turn"))


def test_it_can_be_played_again(file: Path) -> None:
    async def main() -> list[list[Event]]:
        adapter = ReplayAdapter(str(file), clock())
        return [[event async for event in adapter.stream(ASKED)] for _ in range(2)]

    first, second = run_virtual(main())
    assert first == second


def test_a_trace_without_an_end_is_a_cut_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jsonl", (0.1, TextDelta("Red, ")))
    with pytest.raises(errors.TruncatedStream, match=r"cut\.jsonl has no end"):
        play(path)


def test_a_recorded_failure_is_raised_at_its_time(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", (0.1, TextDelta("Red")), (0.4, Failed("server_error", "it broke", 503)))

    async def main() -> tuple[float, errors.StreamError]:
        with pytest.raises(errors.ServerError) as caught:
            [event async for event in ReplayAdapter(str(path), clock()).stream(ASKED)]
        return clock()(), caught.value

    at_s, error = run_virtual(main())
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
        errors.BadRequest,
        errors.AuthError,
        errors.NotFound,
        errors.RateLimited,
        errors.ServerError,
        errors.TruncatedStream,
        errors.ProtocolError,
    ],
)
def test_each_kind_of_failure_has_its_class(cls: type[errors.StreamError]) -> None:
    assert type(error_of(Failed(cls.kind, "m"))) is cls


def test_a_kind_that_is_not_known_is_not_retried() -> None:
    error = error_of(Failed("of-another-version", "m"))
    assert type(error) is errors.StreamError and error.recovery == "fail"


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", (0.1, Finish("stop")), (0.2, TextDelta("more")))
    with pytest.raises(errors.UsageError, match="line 3: an event after the end"):
        play(path)


def test_a_file_that_is_not_a_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    binary, other = tmp_path / "binary", tmp_path / "other"
    binary.write_bytes(b"\xff\xfe\x00")
    other.write_text("hello\n")
    for path in (tmp_path / "missing", tmp_path, binary, other, Path("nul\0byte")):
        with pytest.raises(errors.UsageError) as caught:
            ReplayAdapter(str(path))
        assert "\n" not in str(caught.value)
        assert path.name.replace("\0", "\\x00") in str(caught.value)


def test_check_reads_the_file_that_it_is_given(file: Path) -> None:
    adapter = ReplayAdapter(str(file))
    adapter.check(str(file))
    with pytest.raises(errors.UsageError, match="No such file"):
        adapter.check(str(file) + ".gone")


def test_closing_while_it_waits_ends_it(file: Path) -> None:
    async def main() -> int:
        events = ReplayAdapter(str(file), clock()).stream(ASKED)
        await anext(events)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])
        await events.aclose()
        return len(asyncio.all_tasks())

    assert run_virtual(main()) == 1
