"""The OpenAI users' decoding of other servers' streams, which matches that of the evaluation."""

import importlib
import json
from typing import Any

import pytest

from providers.decoding import chat_completions

answers = importlib.import_module("answer_record")
openai_chunks = importlib.import_module("openai_decoding")

DONE = b"data: [DONE]\n\n"
TEXT = {"delta": {"content": "word "}}
STOP = {"delta": {}, "finish_reason": "stop"}
USAGE = {
    "prompt_tokens": 3, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 3},
}  # fmt: skip


def encode_event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def encode_choice(result: dict[str, Any]) -> bytes:
    return encode_event(choices=[{"index": 0, **result}])


def decode_reads(*parts: bytes) -> Any:
    """Return the answer after these reads, one per second from 1 s on, with the end at 99 s."""
    answer = answers.AnswerRecord("t", "openai", "p", "openai:m", "default", "2026-01-01", 0.0)
    decoder = chat_completions.make_decoder()
    openai_chunks.decode_chunks(decoder, enumerate(parts, start=1), answer)
    openai_chunks.decode_end(decoder, 99.0, answer)
    return answer


@pytest.mark.parametrize("end", [[], [DONE], [b"data: [DONE]"]], ids=["none", "marker", "marker without a blank line"])
def test_finish_reason_completes_answer_with_or_without_marker(end: list[bytes]) -> None:
    answer = decode_reads(encode_choice(TEXT), encode_choice(TEXT), encode_choice(STOP), *end)
    assert (answer.outcome, answer.finish_reason, answer.text_times_s) == ("completed", "stop", [1, 2])


def test_end_marker_after_text_completes_answer_without_reason() -> None:
    assert decode_reads(encode_choice(TEXT), DONE).outcome == "completed"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_under_either_field_is_first_delta(name: str) -> None:
    thought = encode_choice({"delta": {name: "hm"}})
    answer = decode_reads(
        thought, encode_choice(TEXT), encode_choice(STOP), encode_event(choices=[], usage=USAGE), DONE
    )
    assert (answer.first_delta_s, answer.text_times_s) == (1, [2])
    assert (answer.usage["output_tokens"], answer.usage["thinking_tokens"]) == (8, 3)


def test_finish_reason_is_mapped_and_raw_value_kept() -> None:
    answer = decode_reads(encode_choice(TEXT), encode_choice({"delta": {}, "finish_reason": "tool_calls"}), DONE)
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
def test_error_in_stream_keeps_message(broken: bytes, kind: str, words: str) -> None:
    answer = decode_reads(encode_choice(TEXT), broken, DONE)
    assert (answer.outcome, answer.error_type) == ("failed", kind)
    assert words in answer.error_message
    assert answer.text_times_s == [1], "what came before it counts"


def test_non_stream_response_is_protocol_error() -> None:
    assert decode_reads(b'{"choices": [{"message": {"content": "all of it"}}]}').error_type == "protocol"
    assert decode_reads().error_type == "protocol"


def test_chunks_in_one_read_count_as_merged() -> None:
    answer = decode_reads(encode_choice(TEXT) + encode_choice(TEXT), encode_choice(TEXT), encode_choice(STOP), DONE)
    assert (answer.merged_reads, len(answer.text_times_s)) == (1, 3)


def test_split_surrogate_counts_as_one_character() -> None:
    halves = [encode_choice({"delta": {"content": half}}) for half in ("\ud83c", "\udf0d")]
    assert decode_reads(*halves, encode_choice(STOP)).chars == 1
