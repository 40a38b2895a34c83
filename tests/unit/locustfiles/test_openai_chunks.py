"""What the OpenAI users make of other people's streams: the same as the evaluation."""

import importlib
import json
from typing import Any

import pytest

from providers import chat_completions_wire

answers = importlib.import_module("answers")
openai_chunks = importlib.import_module("openai_chunks")

DONE = b"data: [DONE]\n\n"
TEXT = {"delta": {"content": "word "}}
STOP = {"delta": {}, "finish_reason": "stop"}
USAGE = {
    "prompt_tokens": 3, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 3},
}  # fmt: skip


def event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def choice(found: dict[str, Any]) -> bytes:
    return event(choices=[{"index": 0, **found}])


def heard(*parts: bytes) -> Any:
    """Give the answer after these reads, one a second from 1 on, the end at 99."""
    answer = answers.Answer("t", "openai", "p", "openai:m", "default", "2026-01-01", 0.0)
    decoder = chat_completions_wire.decoder()
    openai_chunks.read_chunks(decoder, enumerate(parts, start=1), answer)
    openai_chunks.read_end(decoder, 99.0, answer)
    return answer


@pytest.mark.parametrize("end", [[], [DONE], [b"data: [DONE]"]], ids=["none", "marker", "marker without a blank line"])
def test_a_finish_reason_makes_it_whole_whatever_marker_follows(end: list[bytes]) -> None:
    answer = heard(choice(TEXT), choice(TEXT), choice(STOP), *end)
    assert (answer.outcome, answer.finish_reason, answer.texts_s) == ("completed", "stop", [1, 2])


def test_end_marker_after_text_ends_the_answer_without_a_reason() -> None:
    assert heard(choice(TEXT), DONE).outcome == "completed"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_is_the_first_delta_under_either_name(name: str) -> None:
    thought = choice({"delta": {name: "hm"}})
    answer = heard(thought, choice(TEXT), choice(STOP), event(choices=[], usage=USAGE), DONE)
    assert (answer.first_s, answer.texts_s) == (1, [2])
    assert (answer.usage["output_tokens"], answer.usage["thinking_tokens"]) == (8, 3)


def test_the_finish_reason_is_one_of_ours_and_the_servers_word_is_kept() -> None:
    answer = heard(choice(TEXT), choice({"delta": {}, "finish_reason": "tool_calls"}), DONE)
    assert (answer.finish_reason, answer.finish_raw) == ("tool", "tool_calls")


@pytest.mark.parametrize(
    ("broken", "kind", "words"),
    [
        (b'data: {"error": "CUDA out of memory"}\n\n', "server_error", "CUDA out of memory"),
        (b'data: {"object": "error", "message": "bad thing"}\n\n', "server_error", "bad thing"),
        (b'data: {"error": {"type": "rate_limit", "message": "wait"}}\n\n', "rate_limited", "wait"),
        (b'data: {"choices": [\n\n', "protocol", "malformed JSON"),
    ],
)
def test_an_error_inside_the_stream_has_its_own_words(broken: bytes, kind: str, words: str) -> None:
    answer = heard(choice(TEXT), broken, DONE)
    assert (answer.outcome, answer.error_type) == ("failed", kind)
    assert words in answer.error_message
    assert answer.texts_s == [1], "what came before it counts"


def test_what_is_no_stream_is_told() -> None:
    assert heard(b'{"choices": [{"message": {"content": "all of it"}}]}').error_type == "protocol"
    assert heard().error_type == "protocol"


def test_texts_that_came_in_one_read_are_counted_as_merged() -> None:
    answer = heard(choice(TEXT) + choice(TEXT), choice(TEXT), choice(STOP), DONE)
    assert (answer.merged_reads, len(answer.texts_s)) == (1, 3)


def test_a_halved_character_is_one() -> None:
    halves = [choice({"delta": {"content": half}}) for half in ("\ud83c", "\udf0d")]
    assert heard(*halves, choice(STOP)).chars == 1
