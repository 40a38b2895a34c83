"""The decoders' size limits, and that a response over them is not requested again."""

import json
import re
from collections.abc import Callable

import pytest

from providers.decoding import anthropic, chat_completions, ollama
from providers.decoding.decoder import AnswerBuilder, StreamDecoder
from streaming import limits
from streaming.errors import ProtocolError, ResponseTooLargeError, StreamError
from streaming.events import Event, TextDelta, ThinkingDelta
from streaming.retry import AttemptState, FallBackToNextRoute, GiveUp, RetryPolicy, decide

CHUNK = {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}]}
EVENT = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
LINE = b'{"message": {"role": "assistant", "content": "word"}, "done": false}\n'
BIG = b"x" * limits.MAX_EVENT_BYTES


def decoded(decoder: StreamDecoder, data: bytes, step: int) -> tuple[list[Event], StreamError | None]:
    events: list[Event] = []
    try:
        for start in range(0, len(data), step):
            for event in decoder.feed(data[start : start + step]):
                events.append(event)
        events += decoder.flush()
    except StreamError as error:
        return events, error
    return events, None


CASES: dict[str, tuple[Callable[[], StreamDecoder], bytes]] = {
    "an endless line": (chat_completions.make_decoder, EVENT + b'data: {"x":"' + BIG),
    "a long event": (chat_completions.make_decoder, EVENT + b'data: {"x":"' + BIG + b'"}\n\n'),
    "a long event of Anthropic's": (anthropic.make_decoder, b"event: ping\ndata: " + BIG + b"\n\n"),
    "a crowd in an event": (chat_completions.make_decoder, EVENT + b'data: {"x":[' + b"{}," * 300_000 + b"{}]}\n\n"),
    "a long line": (ollama.make_decoder, LINE + b'{"x":"' + BIG + b'"}\n'),
    "a line without end": (ollama.make_decoder, LINE + BIG + b"x"),
    "a crowd in a line": (ollama.make_decoder, LINE + b'{"x":[' + b"{}," * 300_000 + b"{}]}\n"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [4096, 65_536, 10**9])
def test_decoder_input_over_a_limit_raises_after_the_events_before_it(name: str, step: int) -> None:
    make, data = CASES[name]
    events, error = decoded(make(), data, step)
    assert type(error) is ResponseTooLargeError and re.search("(larger|longer|more) than", error.message)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ([] if "Anthropic" in name else ["word"])


def test_whole_body_over_the_limit_raises() -> None:
    decoder = chat_completions.make_decoder(streamed=False)
    _, error = decoded(decoder, b'{"x":"' + b"x" * limits.MAX_BODY_BYTES, 65_536)
    assert type(error) is ResponseTooLargeError and "16 MB" in error.message


def test_text_over_limit_is_error() -> None:
    answer = AnswerBuilder(max_chars=10)
    assert answer.add_text("word") + answer.add_thinking("word") == [TextDelta("word"), ThinkingDelta("word")]
    with pytest.raises(ResponseTooLargeError, match="more than 10 characters"):
        answer.add_text("word")


def test_long_answer_in_small_events_is_decoded() -> None:
    events, _ = decoded(chat_completions.make_decoder(), EVENT * 60_000, 65_536)
    assert len(events) == 60_000


def test_too_large_response_is_a_protocol_error_without_retry() -> None:
    error = ResponseTooLargeError("too large")
    assert isinstance(error, ProtocolError) and error.kind == "protocol"
    alone = AttemptState(retries_done=0, streamed=True, in_fallback=False, text_delivered=False, routes_left=0)
    others = AttemptState(retries_done=0, streamed=True, in_fallback=False, text_delivered=False, routes_left=1)
    assert (decide(RetryPolicy(), error, alone), decide(RetryPolicy(), error, others)) == (
        GiveUp(),
        FallBackToNextRoute(),
    )
