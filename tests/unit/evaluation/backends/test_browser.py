"""What is computed from a browser's trace and from what a page has read; the browser itself is in tests/e2e."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from evaluation.backends.base import TrialRequest
from evaluation.backends.browser.chromium import ClockBounds
from evaluation.backends.browser.pages import ChatPage, decode_reads
from evaluation.backends.browser.painting import page_figures, painted_events, stop_painted_s
from evaluation.backends.browser.selected_page import SelectedPage
from evaluation.backends.browser.trace import PageTrace, parse_trace
from evaluation.transports import BrowserTransport, PageSelectors, transport_kind
from streaming.errors import UsageError
from streaming.events import Failed, Finish, TextDelta
from streaming.messages import ChatRequest, Message

PAGE, OTHER = 7, 8
MAIN = 1


def mark(at_ms: float, name: str, process: int = PAGE, **detail: object) -> dict[str, Any]:
    data = {"startTime": at_ms - 1000.0, "detail": json.dumps(detail)}
    return {
        "name": f"streamgauge-{name}", "cat": "blink.user_timing", "ph": "I", "pid": process, "tid": MAIN,
        "ts": at_ms * 1000, "args": {"data": data},
    }  # fmt: skip


def frame(number: int, begin_ms: float, commit_ms: float | None, end_ms: float, state: str) -> list[dict[str, Any]]:
    begin = stage(number, "PipelineReporter", "b", begin_ms)
    begin["args"] = {"frame_reporter": {"state": state}}
    end = stage(number, "PipelineReporter", "e", end_ms)
    if commit_ms is None:
        return [begin, end]
    commit = [stage(number, "Commit", "b", commit_ms), stage(number, "Commit", "e", commit_ms + 0.1)]
    return [begin, *commit, end]


def stage(number: int, name: str, phase: str, at_ms: float) -> dict[str, Any]:
    """Return the begin ("b") or the end ("e") of a stage of a frame."""
    common = {"cat": "cc,benchmark,disabled-by-default-devtools.timeline.frame", "pid": PAGE, "tid": 2}
    return {**common, "id2": {"local": f"0x{number}"}, "name": name, "ph": phase, "ts": at_ms * 1000, "args": {}}


def task(at_ms: float, took_ms: float, thread: int = MAIN) -> dict[str, Any]:
    times = {"ts": at_ms * 1000, "dur": took_ms * 1000}
    return {"name": "RunTask", "cat": "disabled-by-default-devtools.timeline", "pid": PAGE, "tid": thread, **times}


def parse(*events: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> PageTrace:
    return parse_trace([one for entry in events for one in (entry if isinstance(entry, list) else [entry])])  # type: ignore[misc] # flattened


def test_text_is_painted_by_the_next_frame_that_takes_it() -> None:
    """The frame under way when the text was drawn has been handed over already; a dropped one shows nothing."""
    trace = parse(
        frame(1, 1000, 1005, 1020, "STATE_PRESENTED_ALL"),
        mark(1010, "text", chars=5, start=0, end=0),
        frame(2, 1016, 1017, 1030, "STATE_DROPPED"),
        frame(3, 1033, 1035, 1040, "STATE_PRESENTED_PARTIAL"),
        frame(4, 1050, None, 1060, "STATE_NO_UPDATE_DESIRED"),
    )
    (painted,) = painted_events(trace, "hello", offset_s=2.0)
    assert painted.at_s == pytest.approx(3.040) and painted.event == TextDelta("hello")
    assert trace.count_dropped("text") == 1
    assert trace.page_origin_s == pytest.approx(1.0)


def paint(*texts: str) -> list[tuple[float, str]]:
    """Return when which text counts as painted of a page that shows these texts, one in each frame of 10 ms."""
    events: list[Any] = []
    shown = ""
    for number, text in enumerate(texts, start=1):
        at_ms = 1000 + 10 * number
        events += [change(at_ms, shown, text), frame(number, at_ms + 1, at_ms + 2, at_ms + 9, "STATE_PRESENTED_ALL")]
        shown = text
    painted = painted_events(parse(*events), texts[-1], 0.0)
    return [(round(one.at_s, 3), one.event.text) for one in painted if isinstance(one.event, TextDelta)]


def count_common(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def change(at_ms: float, before: str, text: str) -> dict[str, Any]:
    """Return the observer's mark of a text that follows another one; both have only characters of one UTF-16 unit."""
    start = count_common(before, text)
    end = count_common(before[start:][::-1], text[start:][::-1])
    return mark(at_ms, "text", chars=len(text), start=start, end=end)


def test_pieces_of_one_frame_are_painted_together() -> None:
    """Of an emoji, the page has drawn one half in the first frame."""
    trace = parse(
        mark(1001, "text", chars=1, start=0, end=0),
        mark(1002, "text", chars=2, start=1, end=0),
        frame(1, 1003, 1004, 1010, "STATE_PRESENTED_ALL"),
        mark(1021, "text", chars=6, start=2, end=0),
        frame(2, 1022, 1023, 1030, "STATE_PRESENTED_ALL"),
    )
    painted = [(round(one.at_s, 3), one.event) for one in painted_events(trace, "a\U0001f600bcd", 0.0)]
    assert painted == [(1.010, TextDelta("a")), (1.030, TextDelta("\U0001f600bcd"))]


@pytest.mark.parametrize(
    ("texts", "painted"),
    [
        (("a|", "ab|", "abc|", "abc"), [(1.019, "a"), (1.029, "b"), (1.039, "c")]),
        (("Thinking…", "Yes", "Yes."), [(1.029, "Yes"), (1.039, ".")]),
        (("a **b", "a b", "a b."), [(1.019, "a b"), (1.039, ".")]),
        (("1 s: a", "2 s: a", "2 s: ab"), [(1.019, "2 s: "), (1.029, "a"), (1.039, "b")]),
        (("c", "bc", "abc"), [(1.019, "a"), (1.029, "b"), (1.039, "c")]),
        (("\n\n", "\na\n", "\na b\n"), [(1.029, "a"), (1.039, " b")]),
    ],
    ids=[
        "cursor",
        "placeholder",
        "Markdown drawn anew",
        "timer before the text",
        "added at the beginning",
        "white space of markup",
    ],
)
def test_text_is_painted_when_it_came_to_stay(texts: tuple[str, ...], painted: list[tuple[float, str]]) -> None:
    assert paint(*texts) == painted


def test_white_space_before_a_preformatted_text_is_painted_with_it() -> None:
    trace = parse(mark(1001, "text", chars=2, start=0, end=0), frame(1, 1002, 1003, 1010, "STATE_PRESENTED_ALL"))
    (painted,) = painted_events(trace, " a", 0.0, is_preformatted=True)
    assert painted.event == TextDelta(" a")


def test_answer_that_the_page_takes_away_is_rejected() -> None:
    """A list that keeps only what is in view: its end says little of what was painted before."""
    windows = ["".join(f"line {line}\n" for line in range(first, first + 9)) for first in range(10, 60, 8)]
    with pytest.raises(UsageError, match=r"--page-answer: the page took away or replaced \d+ characters"):
        paint(*windows)


def test_frame_ends_with_its_last_stage_whatever_name_the_end_has() -> None:
    """Chromium swaps the names of two ends if a stage of a frame began before the frame's reporter."""
    reporter = stage(1, "PipelineReporter", "b", 1001)
    reporter["args"] = {"frame_reporter": {"state": "STATE_PRESENTED_ALL"}}
    trace = parse(
        stage(1, "BeginImplFrameToSendBeginMainFrame", "e", 990),  # it began before the trace
        stage(1, "SendBeginMainFrameToCommit", "b", 1000),
        reporter,
        mark(1002, "text", chars=2, start=0, end=0),
        stage(1, "PipelineReporter", "e", 1003),
        stage(1, "Commit", "b", 1003),
        stage(1, "Commit", "e", 1004),
        stage(1, "SubmitCompositorFrameToPresentationCompositorFrame", "b", 1004),
        stage(1, "SubmitCompositorFrameToPresentationCompositorFrame", "e", 1008),
        stage(1, "SendBeginMainFrameToCommit", "e", 1008),
        frame(1, 1016, 1017, 1024, "STATE_PRESENTED_ALL"),
    )
    (painted,) = painted_events(trace, "ab", 0.0)
    assert painted.at_s == pytest.approx(1.008)
    assert [presented.presented_s for presented in trace.frames] == pytest.approx([1.008, 1.024])


def test_figures_are_those_of_the_page_between_two_times() -> None:
    received = {"name": "ResourceReceivedData", "cat": "devtools.timeline", "pid": PAGE, "tid": MAIN, "ts": 1_050_000}
    trace = parse(
        task(990, 5),
        task(1000, 60),
        task(1100, 40),
        task(1150, 500, thread=9),
        {**received, "args": {"data": {"encodedDataLength": 123}}},
        frame(1, 1000, 1001, 1010, "STATE_PRESENTED_ALL"),
        frame(2, 1190, 1191, 1230, "STATE_PRESENTED_ALL"),
        mark(1020, "key", at=15.0),
        frame(3, 1021, 1022, 1033, "STATE_PRESENTED_ALL"),
        mark(1100, "text", number=1, chars=2),
        mark(1191.5, "after-frame", number=1),
    )
    figures = page_figures(trace, 1.0, 1.2)
    assert (figures.frames_presented, figures.frames_dropped, figures.page_bytes) == (2, 0, 123)
    assert (figures.longest_task_s, figures.long_tasks) == (0.06, 1)
    assert figures.main_thread_busy == pytest.approx(0.5)
    assert figures.key_delay_s == pytest.approx(0.018)
    assert figures.frame_check_s == pytest.approx(1.230 - 1.1915)


def test_marks_of_another_process_are_of_no_use() -> None:
    trace = parse(mark(1000, "text", OTHER, chars=9), mark(1001, "text", chars=1))
    assert [one.detail["chars"] for one in trace.marks] == [1]
    assert parse().marks == () and page_figures(parse(), 0.0, 1.0).key_delay_s is None


def test_stop_is_painted_from_its_press() -> None:
    """The page's clock began at 1 s; a click follows the press of the pointer."""
    press, stop = mark(1091, "pressed", at=90.0), mark(1100, "stopped")
    click, shown = mark(1095, "pressed", at=94.0), frame(1, 1101, 1102, 1110, "STATE_PRESENTED_ALL")
    assert stop_painted_s(parse(press, click, stop, shown)) == pytest.approx(0.02)


def test_answer_that_ended_before_stop_was_pressed_has_no_time_of_a_stop() -> None:
    stop, shown = mark(1100, "stopped"), frame(1, 1101, 1102, 1110, "STATE_PRESENTED_ALL")
    assert stop_painted_s(parse(stop, shown)) is None
    late = mark(1105, "pressed", at=105.0)
    assert stop_painted_s(parse(stop, late, shown)) is None


@pytest.mark.parametrize(
    ("spans", "offset_s", "error_s"),
    [
        ([(0.999, 1.002), (1.998, 2.001)], 0.0, 0.002),
        ([(3.999, 4.001), (5.0, 5.01)], 3.0, 0.001),
        ([], 0.0, 0.0),
    ],
)
def test_clocks_are_compared_by_marks(spans: list[tuple[float, float]], offset_s: float, error_s: float) -> None:
    """The first pair allows an offset of 0, so that it is 0; the second one lies 3 s apart."""
    trace = parse(mark(1000, "sync"), mark(2000, "sync"))
    assert ClockBounds(spans).offset_s(trace) == pytest.approx((offset_s, error_s), abs=1e-3)


def answer(*texts: str, **changes: Any) -> dict[str, Any]:
    reads = [[1000.0 + 10 * number, text] for number, text in enumerate(texts)]
    common = {"status": 200, "headers": {}, "reads": reads, "fault": None, "sent_ms": 500.0, "headers_ms": 900.0}
    return {**common, "ended_ms": 2000.0, **changes}


CHUNK = 'id: s:1\ndata: {"content": "Hi"}\n\n'
USAGE = {"input_tokens": 1, "output_tokens": 1, "thinking_tokens": 0, "cached_tokens": 0, "source": "reported"}
RECEIPT = {
    "finish_reason": "stop",
    "provider": "sim",
    "attempts": 1,
    "delivered_chars": 2,
    "usage": USAGE,
    "cost_usd": 0,
}
FINISH = f"id: s:2\nevent: finish\ndata: {json.dumps(RECEIPT)}\n\n"
DONE = "id: s:3\ndata: [DONE]\n\n"


def test_answer_of_the_page_is_decoded_with_the_times_of_its_reads() -> None:
    read = decode_reads(answer(CHUNK[:12], CHUNK[12:] + FINISH, DONE))
    assert read.events is not None and read.sent_s == 0.5 and read.headers_s == 0.9
    assert [(one.at_s, type(one.event)) for one in read.events] == [(1.01, TextDelta), (1.01, Finish)]


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (answer(CHUNK), "truncated"),
        (answer(CHUNK, fault="TypeError: network error"), "truncated"),
        (answer(CHUNK, fault="AbortError: The user aborted a request."), "cancelled"),
        (answer(status=0, fault="TypeError: Failed to fetch"), "network"),
        (answer('{"error": {"type": "rate_limited", "message": "later"}}', status=429), "rate_limited"),
        (answer("<html>", status=502), "server_error"),
        (answer("data: {broken\n\n"), "protocol"),
    ],
)
def test_answer_that_did_not_end_well_is_no_finished_one(read: dict[str, Any], kind: str) -> None:
    page_answer = decode_reads(read)
    assert page_answer.events is not None
    last = page_answer.events[-1]
    assert isinstance(last.event, Failed) and last.event.kind == kind and last.at_s == 2.0


def test_named_wait_of_a_refused_answer_is_read() -> None:
    error = '{"error": {"type": "rate_limited", "message": "later"}}'
    refused = answer(error, status=429, headers={"retry-after": "7"})
    assert decode_reads(refused).retry_after_s == 7.0


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("browser", "browser"),
        ("browser:plain:columns=1", "browser"),
        ("browser:cpu=4:columns=2", "browser:columns=2:cpu=4"),
        ("browser:custom", "browser:custom"),
    ],
)
def test_browser_names_have_one_normal_form(name: str, normal: str) -> None:
    assert str(BrowserTransport.parse(name)) == normal and transport_kind(name) == "browser"


@pytest.mark.parametrize(
    "name", ["browser:", "browser:cpu", "browser:cpu=0", "browser:columns=99", "browser:x=1", "sse:cpu=2"]
)
def test_unknown_browser_settings_are_rejected(name: str) -> None:
    with pytest.raises(UsageError, match="transport"):
        BrowserTransport.parse(name)


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest((Message("system", "Be brief."), Message("user", "Why?"))),
        ChatRequest((Message("user", "Why?"),), temperature=0.2),
        ChatRequest((Message("user", "Why?"),), effort="low"),
    ],
)
def test_request_that_a_page_would_not_send_as_it_is_is_rejected(request_: ChatRequest) -> None:
    """A page asks with its own settings: a row would be of another request than it says."""
    call = TrialRequest("sim:steady", "direct", "browser:custom", request_)
    with pytest.raises(UsageError, match="--page-url: the page asks one question"):
        SelectedPage(PageSelectors("http://127.0.0.1:9", "textarea", ".answer"), lambda: 0.0, call)
    with pytest.raises(UsageError, match="--transport browser:chat: the page asks one question"):
        ChatPage("http://127.0.0.1:9", lambda: 0.0, call)
