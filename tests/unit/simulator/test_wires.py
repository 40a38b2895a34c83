"""What each wire reads and writes, as its vendor documents it; real clients read them in the integration tests."""

import json
from dataclasses import replace
from typing import Any

import pytest

from simulator.schedules import PROFILES, StepKind, schedule
from simulator.wires.anthropic import Messages
from simulator.wires.chat_completions import ChatCompletions
from simulator.wires.contract import Answer, Dialect, Part
from simulator.wires.ollama import Chat
from streaming.errors import UsageError

OPENAI, AZURE, ANTHROPIC, OLLAMA = ChatCompletions(), ChatCompletions(azure=True), Messages(), Chat()
DIALECTS = [OPENAI, AZURE, ANTHROPIC, OLLAMA]
BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "abc"}]}


def answer(dialect: Dialect, profile: str = "thinking", **fields: Any) -> Answer:
    asked = dialect.read({**BODY, **fields})
    laid_out = schedule(replace(PROFILES[profile], tokens=4, thinking_tokens=0 if profile == "steady" else 2), 1)
    return Answer(asked, laid_out, 11, "000007", 1_700_000_000.0)


def stream(dialect: Dialect, given: Answer) -> list[Part]:
    encoder = dialect.encoder(given)
    parts = encoder.opening()
    for step in given.schedule.steps:
        parts += encoder.delta(step.kind, json.dumps(step.text).encode())
    return parts + encoder.closing(marked=True)


def fields_of(part: Part) -> Any:
    return json.loads(part.data[part.data.index(b"{") :])


def texts(parts: list[Part], kind: StepKind) -> str:
    """Join the deltas of a kind, wherever the wire puts them."""
    wanted = {"text": ("content", "text"), "thinking": ("reasoning_content", "thinking")}[kind]
    found = []
    for part in parts:
        if part.kind in ("content", "thinking"):
            fields = fields_of(part)
            delta = fields.get("delta") or fields.get("message") or fields["choices"][0]["delta"]
            found += [delta[name] for name in wanted if name in delta]
    return "".join(found)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_stream_carries_all_of_its_text_and_thinking(dialect: Dialect) -> None:
    given = answer(dialect)
    parts = stream(dialect, given)
    assert texts(parts, "text") == given.schedule.text
    assert texts(parts, "thinking") == given.schedule.thinking
    assert [part.kind for part in parts if part.kind in ("content", "thinking")] == ["thinking"] * 2 + ["content"] * 4


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_text_that_needs_escapes_comes_back(dialect: Dialect) -> None:
    literal = json.dumps('"\n\0é\\').encode()
    assert texts(dialect.encoder(answer(dialect)).delta("text", literal), "text") == '"\n\0é\\'


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_only_the_end_marker_is_left_out_of_an_unmarked_end(dialect: Dialect) -> None:
    encoder = dialect.encoder(answer(dialect))
    kinds = [part.kind for part in encoder.closing(marked=False)]
    assert "finish" in kinds and "end" not in kinds


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
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
def test_a_request_that_a_vendor_refuses_is_refused(dialect: Dialect, broken: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dialect.read({**BODY, **broken})


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, OLLAMA], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("model", [None, "", 3])
def test_a_model_is_needed(dialect: Dialect, model: object) -> None:
    with pytest.raises(UsageError, match="model"):
        dialect.read({**BODY, "model": model})


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("limit", [0, -1, 1.5, "9", True])
def test_a_limit_is_a_count(dialect: Dialect, limit: object) -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        dialect.read({**BODY, "max_tokens": limit})


def test_openai_limits_have_two_names_and_the_newer_wins() -> None:
    assert OPENAI.read(BODY).max_tokens == 9
    assert OPENAI.read({**BODY, "max_completion_tokens": 5}).max_tokens == 5


def test_azure_takes_the_model_from_its_path() -> None:
    fields = {name: value for name, value in BODY.items() if name != "model"}
    assert ChatCompletions(azure=True, deployment="mine").read(fields).model == "mine"


def test_anthropic_needs_a_limit_and_reads_the_system_prompt() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        ANTHROPIC.read({**BODY, "max_tokens": None})
    assert ANTHROPIC.read({**BODY, "system": [{"type": "text", "text": "Be kind."}]}).prompt == "Be kind.\nabc"


@pytest.mark.parametrize(("limit", "read"), [(None, None), (-1, None), (0, None), (5, 5)])
def test_ollama_streams_unless_told_otherwise_and_limits_with_num_predict(limit: int | None, read: int | None) -> None:
    asked = OLLAMA.read({**BODY, "options": {"num_predict": limit}})
    assert (asked.streamed, asked.max_tokens) == (True, read)
    assert OLLAMA.read({**BODY, "stream": False}).streamed is False


@pytest.mark.parametrize("include", [True, False])
def test_openai_reports_usage_only_when_asked(include: bool) -> None:
    parts = stream(OPENAI, answer(OPENAI, stream_options={"include_usage": include}))
    usage = [fields_of(part) for part in parts if part.kind == "usage"]
    assert len(usage) == include
    assert ("usage" in fields_of(parts[1])) is include
    if include:
        assert usage[0]["choices"] == []
        assert usage[0]["usage"]["prompt_tokens"] == 11
        assert usage[0]["usage"]["completion_tokens"] == 6
        assert usage[0]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_openai_starts_with_the_role_and_ends_with_its_marker() -> None:
    parts = stream(OPENAI, answer(OPENAI))
    assert fields_of(parts[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert fields_of(parts[-2])["choices"][0]["finish_reason"] == "stop"
    assert parts[-1].data == b"data: [DONE]\n\n"
    assert {fields_of(part)["model"] for part in parts[:-1]} == {"m"}


def test_azure_says_first_what_its_filter_found() -> None:
    parts = stream(AZURE, answer(AZURE))
    first = fields_of(parts[0])
    assert (first["choices"], first["prompt_filter_results"][0]["prompt_index"]) == ([], 0)
    assert "content_filter_results" in fields_of(parts[2])["choices"][0]


def test_anthropic_opens_and_closes_a_block_for_each_kind() -> None:
    parts = stream(ANTHROPIC, answer(ANTHROPIC))
    names = [fields_of(part)["type"] for part in parts]
    deltas = ["content_block_delta"]
    thinking = ["content_block_start", *deltas * 3, "content_block_stop"]
    text = ["content_block_start", *deltas * 4, "content_block_stop"]
    assert names == ["message_start", "ping", *thinking, *text, "message_delta", "message_stop"]
    assert all(part.data.startswith(f"event: {name}\n".encode()) for part, name in zip(parts, names, strict=True))
    assert fields_of(parts[0])["message"]["usage"]["input_tokens"] == 11
    assert fields_of(parts[-2])["usage"] == {"output_tokens": 6}
    assert fields_of(parts[-2])["delta"]["stop_reason"] == "end_turn"


def test_ollama_ends_with_its_counts_and_durations() -> None:
    last = fields_of(stream(OLLAMA, answer(OLLAMA, "steady"))[-1])
    assert (last["done"], last["done_reason"], last["eval_count"], last["prompt_eval_count"]) == (True, "stop", 4, 11)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (200_000_000, 80_000_000)
    assert last["total_duration"] == 280_000_000


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        (OPENAI, ("choices", 0, "message", "content")),
        (AZURE, ("choices", 0, "message", "content")),
        (ANTHROPIC, ("content", 1, "text")),
        (OLLAMA, ("message", "content")),
    ],
)
def test_the_whole_answer_has_the_same_text(dialect: Dialect, path: tuple[str | int, ...]) -> None:
    given = answer(dialect)
    found = json.loads(dialect.encoder(given).whole())
    for key in path:
        found = found[key]
    assert found == given.schedule.text


def test_errors_have_each_vendors_shape() -> None:
    assert json.loads(OPENAI.error(401, "no", "7"))["error"] == {
        "message": "no",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert json.loads(AZURE.error(401, "no", "7")) == {"error": {"code": "401", "message": "no"}}
    assert json.loads(ANTHROPIC.error(529, "no", "7")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no"},
        "request_id": "req_7",
    }
    assert json.loads(OLLAMA.error(500, "no", "7")) == {"error": "no"}
