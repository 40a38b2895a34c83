"""Who answered and the server's own timings, as each vendor reports them in its responses."""

from typing import Any

import pytest

from providers.decoding import anthropic, chat_completions, ollama, openai_responses
from providers.decoding.decoder import StreamDecoder
from streaming.origin import OriginRecord, ResponseOrigin, origin_record_of
from tests.unit.providers.decoder_helpers import decode, encode_ndjson, encode_sse


def record_of(decoder: StreamDecoder, data: bytes) -> OriginRecord:
    events, _ = decode(decoder, [data])
    return origin_record_of(events)


def chat_chunks(*, last: dict[str, Any], **head: Any) -> bytes:
    text = {**head, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **last}
    return encode_sse(text, end, "[DONE]")


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_gateway_names_its_upstream_and_the_served_model() -> None:
    data = chat_chunks(id="gen-1", provider="DeepInfra", model="meta/llama-4", last={"usage": USAGE})
    found = record_of(chat_completions.make_decoder(), data)
    assert found.origin == ResponseOrigin("meta/llama-4", "DeepInfra", request_id="gen-1")


def test_openai_reports_tier_and_fingerprint() -> None:
    head = {"id": "chatcmpl-1", "model": "gpt-6.1-terra-2026-09-01", "system_fingerprint": "fp_1"}
    events, _ = decode(
        chat_completions.make_decoder(),
        [chat_chunks(**head, service_tier="priority", last={"usage": USAGE})],
    )
    origin = origin_record_of(events).origin
    assert origin == ResponseOrigin("gpt-6.1-terra-2026-09-01", None, "priority", "fp_1", "chatcmpl-1")
    assert [event.service_tier for event in events if hasattr(event, "service_tier")] == ["priority"]


def test_azure_names_the_model_after_its_first_chunk() -> None:
    checked = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    data = encode_sse(checked) + chat_chunks(id="c", model="gpt-5.6", last={})
    assert record_of(chat_completions.make_decoder(), data).origin == ResponseOrigin("gpt-5.6", request_id="c")


def test_cut_stream_still_tells_who_answered() -> None:
    data = chat_chunks(id="c", model="m", last={}).partition(b"data: [DONE]")[0].rsplit(b"data: ", 1)[0]
    assert record_of(chat_completions.make_decoder(), data + b"data: {nonsense\n\n").origin is not None


@pytest.mark.parametrize(
    ("last", "timings"),
    [
        (
            {
                "x_groq": {
                    "usage": {**USAGE, "queue_time": 0.25, "prompt_time": 0.5, "completion_time": 1, "total_time": 2}
                }
            },
            {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0, "total_s": 2.0},
        ),
        (
            {"usage": USAGE, "time_info": {"queue_time": 0.25, "prompt_time": 0.5, "completion_time": 1.0}},
            {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0},
        ),
        ({"timings": {"prompt_ms": 12.5, "predicted_ms": 250}}, {"prefill_s": 0.0125, "decode_s": 0.25}),
        ({"timings": {"prompt_ms": "soon", "predicted_ms": -1}}, {}),
        ({"usage": USAGE}, {}),
    ],
)
def test_servers_own_timings_are_read_in_seconds(last: dict[str, Any], timings: dict[str, float]) -> None:
    assert record_of(chat_completions.make_decoder(), chat_chunks(model="m", last=last)).timings == timings


def test_messages_api_reports_model_and_tier() -> None:
    begun = {"type": "message_start", "message": {"id": "msg_1", "model": "claude-haiku-5-5", "usage": {}}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}
    usage = {"output_tokens": 3, "service_tier": "standard"}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    found = record_of(anthropic.make_decoder(), encode_sse(begun, text, end, {"type": "message_stop"}))
    assert found.origin == ResponseOrigin("claude-haiku-5-5", None, "standard", None, "msg_1")


def test_responses_api_reports_model_and_tier() -> None:
    response = {"id": "resp_1", "model": "gpt-6.1-terra", "status": "completed", "service_tier": "flex", "output": []}
    text = {"type": "response.output_text.delta", "delta": "Hi"}
    data = encode_sse(text, {"type": "response.completed", "response": response})
    found = record_of(openai_responses.make_decoder(), data)
    assert found.origin == ResponseOrigin("gpt-6.1-terra", None, "flex", None, "resp_1")


def test_ollama_reports_model_and_timings() -> None:
    line = {"model": "llama3.2", "message": {"content": "Hi"}, "done": True, "load_duration": 2_000_000_000}
    found = record_of(ollama.make_decoder(), encode_ndjson(line))
    assert (found.origin, found.timings) == (ResponseOrigin("llama3.2"), {"load_s": 2.0})
