"""The wire formats, as the vendors document them; the integration tests read them with real clients."""

import json
from dataclasses import replace
from typing import Any

import pytest

from simulator.schedules import PROFILES, StepKind, make_schedule
from simulator.wires.anthropic import MessagesWire
from simulator.wires.base import EncodingContext, StreamPart, Wire
from simulator.wires.chat_completions import ChatCompletionsWire
from simulator.wires.ollama import OllamaChatWire
from streaming.errors import UsageError

OPENAI_WIRE, AZURE_WIRE, ANTHROPIC_WIRE, OLLAMA_WIRE = (
    ChatCompletionsWire(),
    ChatCompletionsWire(azure=True),
    MessagesWire(),
    OllamaChatWire(),
)
WIRES = [OPENAI_WIRE, AZURE_WIRE, ANTHROPIC_WIRE, OLLAMA_WIRE]
BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "abc"}]}


def make_context(dialect: Wire, profile: str = "thinking", **fields: Any) -> EncodingContext:
    request = dialect.parse_request({**BODY, **fields})
    laid_out = make_schedule(replace(PROFILES[profile], tokens=4, thinking_tokens=0 if profile == "steady" else 2), 1)
    return EncodingContext(request, laid_out, 11, "000007", 1_700_000_000.0)


def encode_stream(dialect: Wire, given: EncodingContext) -> list[StreamPart]:
    encoder = dialect.encoder(given)
    parts = encoder.opening()
    for step in given.schedule.steps:
        parts += encoder.delta(step.kind, json.dumps(step.text).encode())
    return parts + encoder.closing(marked=True)


def parse_part(part: StreamPart) -> Any:
    return json.loads(part.data[part.data.index(b"{") :])


def join_deltas(parts: list[StreamPart], kind: StepKind) -> str:
    """Return the joined deltas of a kind, in any wire format."""
    expected = {"text": ("content", "text"), "thinking": ("reasoning_content", "thinking")}[kind]
    result = []
    for part in parts:
        if part.kind in ("content", "thinking"):
            fields = parse_part(part)
            delta = fields.get("delta") or fields.get("message") or fields["choices"][0]["delta"]
            result += [delta[name] for name in expected if name in delta]
    return "".join(result)


@pytest.mark.parametrize("dialect", WIRES, ids=lambda dialect: dialect.name)
def test_stream_contains_all_text_and_thinking(dialect: Wire) -> None:
    given = make_context(dialect)
    parts = encode_stream(dialect, given)
    assert join_deltas(parts, "text") == given.schedule.text
    assert join_deltas(parts, "thinking") == given.schedule.thinking
    assert [part.kind for part in parts if part.kind in ("content", "thinking")] == ["thinking"] * 2 + ["content"] * 4


@pytest.mark.parametrize("dialect", WIRES, ids=lambda dialect: dialect.name)
def test_escaped_text_round_trips(dialect: Wire) -> None:
    literal = json.dumps('"\n\0é\\').encode()
    assert join_deltas(dialect.encoder(make_context(dialect)).delta("text", literal), "text") == '"\n\0é\\'


@pytest.mark.parametrize("dialect", WIRES, ids=lambda dialect: dialect.name)
def test_unmarked_closing_omits_only_end_marker(dialect: Wire) -> None:
    encoder = dialect.encoder(make_context(dialect))
    kinds = [part.kind for part in encoder.closing(marked=False)]
    assert "finish" in kinds and "end" not in kinds


@pytest.mark.parametrize("dialect", WIRES, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "broken",
    [
        {"messages": None},
        {"messages": []},
        {"messages": ["a"]},
        {"messages": [{"content": "a"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"stream": "yes"},
    ],
)
def test_invalid_vendor_request_is_rejected(dialect: Wire, broken: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dialect.parse_request({**BODY, **broken})


@pytest.mark.parametrize("dialect", [OPENAI_WIRE, ANTHROPIC_WIRE, OLLAMA_WIRE], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("model", [None, "", 3])
def test_request_without_model_is_rejected(dialect: Wire, model: object) -> None:
    with pytest.raises(UsageError, match="model"):
        dialect.parse_request({**BODY, "model": model})


@pytest.mark.parametrize("dialect", [OPENAI_WIRE, ANTHROPIC_WIRE], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("limit", [0, -1, 1.5, "9", True])
def test_invalid_max_tokens_is_rejected(dialect: Wire, limit: object) -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        dialect.parse_request({**BODY, "max_tokens": limit})


def test_openai_max_completion_tokens_overrides_max_tokens() -> None:
    assert OPENAI_WIRE.parse_request(BODY).max_tokens == 9
    assert OPENAI_WIRE.parse_request({**BODY, "max_completion_tokens": 5}).max_tokens == 5


def test_azure_reads_model_from_path() -> None:
    fields = {name: value for name, value in BODY.items() if name != "model"}
    assert ChatCompletionsWire(azure=True, deployment="mine").parse_request(fields).model == "mine"


def test_anthropic_requires_max_tokens_and_reads_system_prompt() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        ANTHROPIC_WIRE.parse_request({**BODY, "max_tokens": None})
    assert (
        ANTHROPIC_WIRE.parse_request({**BODY, "system": [{"type": "text", "text": "Be kind."}]}).prompt
        == "Be kind.\nabc"
    )


@pytest.mark.parametrize(("limit", "read"), [(None, None), (-1, None), (0, None), (5, 5)])
def test_ollama_streams_by_default_and_reads_num_predict(limit: int | None, read: int | None) -> None:
    request = OLLAMA_WIRE.parse_request({**BODY, "options": {"num_predict": limit}})
    assert (request.streamed, request.max_tokens) == (True, read)
    assert OLLAMA_WIRE.parse_request({**BODY, "stream": False}).streamed is False


@pytest.mark.parametrize("include", [True, False])
def test_openai_reports_usage_only_if_requested(include: bool) -> None:
    parts = encode_stream(OPENAI_WIRE, make_context(OPENAI_WIRE, stream_options={"include_usage": include}))
    usage = [parse_part(part) for part in parts if part.kind == "usage"]
    assert len(usage) == include
    assert ("usage" in parse_part(parts[1])) is include
    if include:
        assert usage[0]["choices"] == []
        assert usage[0]["usage"]["prompt_tokens"] == 11
        assert usage[0]["usage"]["completion_tokens"] == 6
        assert usage[0]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_openai_stream_starts_with_role_and_ends_with_done() -> None:
    parts = encode_stream(OPENAI_WIRE, make_context(OPENAI_WIRE))
    assert parse_part(parts[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert parse_part(parts[-2])["choices"][0]["finish_reason"] == "stop"
    assert parts[-1].data == b"data: [DONE]\n\n"
    assert {parse_part(part)["model"] for part in parts[:-1]} == {"m"}


def test_azure_stream_starts_with_prompt_filter_results() -> None:
    parts = encode_stream(AZURE_WIRE, make_context(AZURE_WIRE))
    first = parse_part(parts[0])
    assert (first["choices"], first["prompt_filter_results"][0]["prompt_index"]) == ([], 0)
    assert "content_filter_results" in parse_part(parts[2])["choices"][0]


def test_anthropic_stream_opens_and_closes_block_per_kind() -> None:
    parts = encode_stream(ANTHROPIC_WIRE, make_context(ANTHROPIC_WIRE))
    names = [parse_part(part)["type"] for part in parts]
    deltas = ["content_block_delta"]
    thinking = ["content_block_start", *deltas * 3, "content_block_stop"]
    text = ["content_block_start", *deltas * 4, "content_block_stop"]
    assert names == ["message_start", "ping", *thinking, *text, "message_delta", "message_stop"]
    assert all(part.data.startswith(f"event: {name}\n".encode()) for part, name in zip(parts, names, strict=True))
    assert parse_part(parts[0])["message"]["usage"]["input_tokens"] == 11
    assert parse_part(parts[-2])["usage"] == {"output_tokens": 6}
    assert parse_part(parts[-2])["delta"]["stop_reason"] == "end_turn"


def test_ollama_stream_ends_with_counts_and_durations() -> None:
    last = parse_part(encode_stream(OLLAMA_WIRE, make_context(OLLAMA_WIRE, "steady"))[-1])
    assert (last["done"], last["done_reason"], last["eval_count"], last["prompt_eval_count"]) == (True, "stop", 4, 11)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (200_000_000, 80_000_000)
    assert last["total_duration"] == 280_000_000


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        (OPENAI_WIRE, ("choices", 0, "message", "content")),
        (AZURE_WIRE, ("choices", 0, "message", "content")),
        (ANTHROPIC_WIRE, ("content", 1, "text")),
        (OLLAMA_WIRE, ("message", "content")),
    ],
)
def test_whole_answer_has_same_text_as_stream(dialect: Wire, path: tuple[str | int, ...]) -> None:
    given = make_context(dialect)
    data = json.loads(dialect.encoder(given).body())
    for key in path:
        data = data[key]
    assert data == given.schedule.text


def test_errors_have_vendor_shapes() -> None:
    assert json.loads(OPENAI_WIRE.error(401, "no", "7"))["error"] == {
        "message": "no",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert json.loads(AZURE_WIRE.error(401, "no", "7")) == {"error": {"code": "401", "message": "no"}}
    assert json.loads(ANTHROPIC_WIRE.error(529, "no", "7")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no"},
        "request_id": "req_7",
    }
    assert json.loads(OLLAMA_WIRE.error(500, "no", "7")) == {"error": "no"}
