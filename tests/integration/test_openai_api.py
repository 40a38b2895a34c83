"""The OpenAI API in detail: chunks, usage, rejections, and failures before and after the first chunk."""

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import pytest

from providers import ProviderRegistry
from settings import Settings
from streaming.errors import (
    AuthenticationError,
    BadRequestError,
    FirstContentTimeout,
    NetworkError,
    NotFoundError,
    RateLimitError,
    ServerError,
    StreamError,
)
from streaming.events import Finish, TextDelta, ThinkingDelta, Usage
from tests.asgi_server import UNLIMITED_VARIABLES, SingleAdapterProviders, serve_providers
from tests.integration.service_over_simulator import ProvidersWithoutModel, run_simulator, send_request, serve_simulator
from tests.scripted_adapter import FINISH, ScriptedAdapter, ScriptStep, words_script

COMPLETIONS = "/v1/chat/completions"
COMPLETION_BODY: dict[str, Any] = {"model": "p", "messages": [{"role": "user", "content": "Name three colours."}]}
STREAMED_BODY = {**COMPLETION_BODY, "stream": True, "strategy": "direct"}
KEY = "sg-ann-0123456789abcdef0123456789abcdef"
KEYS_VARIABLES = {**UNLIMITED_VARIABLES, "API_KEYS": f"ann=sha256:{sha256(KEY.encode()).hexdigest()}"}

Response = tuple[int, dict[str, str], bytes]


def request_completion(
    providers: ProviderRegistry,
    body: Any,
    *,
    path: str = COMPLETIONS,
    method: str = "POST",
    variables: Mapping[str, str] = UNLIMITED_VARIABLES,
    headers: Mapping[str, str] | None = None,
) -> Response:
    async def main() -> Response:
        async with serve_providers(providers, variables) as port:
            return await (await send_request(port, path, body, method=method, headers=headers)).read_response()

    return asyncio.run(main())


def request_played(script: list[ScriptStep], body: Any = STREAMED_BODY) -> Response:
    return request_completion(SingleAdapterProviders(ScriptedAdapter(script)), body)


def sse_data_lines(body: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]


def parse_chunks(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sse_data_lines(body) if line != "[DONE]"]


def test_streamed_completion_has_role_first_one_finish_and_done_last() -> None:
    status, headers, body = request_played(words_script(3, first_s=0.0))
    assert (status, headers["cache-control"], headers["x-accel-buffering"]) == (200, "no-cache", "no")
    assert headers["content-type"].startswith("text/event-stream")
    assert sse_data_lines(body)[-1] == "[DONE]"
    result = parse_chunks(body)
    assert {(c["object"], c["model"]) for c in result} == {("chat.completion.chunk", "p")}
    assert len({c["id"] for c in result}) == 1 and result[0]["id"].startswith("chatcmpl-")
    choices = [c["choices"][0] for c in result]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["delta"].get("content") for c in choices[1:]] == ["w0 ", "w1 ", "w2 ", None]
    assert [c["finish_reason"] for c in choices] == [None, None, None, None, "stop"]
    assert all("usage" not in c for c in result)


def test_include_usage_adds_final_usage_chunk_and_null_before() -> None:
    script: list[ScriptStep] = [
        (0.0, TextDelta("a")),
        (0.0, Usage(7, 5, thinking_tokens=2, cached_tokens=3)),
        (0.0, FINISH),
    ]
    result = parse_chunks(request_played(script, {**STREAMED_BODY, "stream_options": {"include_usage": True}})[2])
    assert {c["usage"] for c in result[:-1]} == {None}
    assert result[-1]["choices"] == []
    assert result[-1]["usage"] == {
        "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    assert result[-1]["streamgauge"]["usage"]["source"] == "reported"


@pytest.mark.parametrize("streamed", [True, False])
def test_thinking_is_returned_as_reasoning_content(streamed: bool) -> None:
    script: list[ScriptStep] = [(0.0, ThinkingDelta("hm")), (0.0, TextDelta("yes")), (0.0, FINISH)]
    body = request_played(script, {**STREAMED_BODY, "stream": streamed})[2]
    if streamed:
        deltas = [c["choices"][0]["delta"] for c in parse_chunks(body)]
        assert deltas[1:] == [{"reasoning_content": "hm"}, {"content": "yes"}, {}]
    else:
        message = json.loads(body)["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "yes")


def test_whole_completion_has_usage_finish_reason_and_receipt() -> None:
    status, headers, body = request_played(
        [(0.0, TextDelta("cut")), (0.0, Usage(4, 1)), (0.0, Finish("length", "x"))], COMPLETION_BODY
    )
    whole = json.loads(body)
    assert (status, headers["content-type"], whole["object"]) == (200, "application/json", "chat.completion")
    assert whole["choices"] == [
        {
            "index": 0, "logprobs": None, "finish_reason": "length",
            "message": {"role": "assistant", "content": "cut", "refusal": None},
        }
    ]  # fmt: skip
    assert (whole["usage"]["total_tokens"], whole["streamgauge"]["cost_usd"]) == (5, None)


ERRORS: list[tuple[StreamError, int, str]] = [
    (BadRequestError("no", http_status=400), 400, "invalid_request_error"),
    (NotFoundError("no such model", http_status=404), 404, "not_found_error"),
    (RateLimitError("slow down", http_status=429), 429, "rate_limit_error"),
    (ServerError("down", http_status=503), 502, "api_error"),
    (AuthenticationError("the service's own key", http_status=401), 502, "api_error"),
    (NetworkError("refused"), 502, "api_error"),
    (FirstContentTimeout("silent"), 504, "api_error"),
]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("error", "status", "kind"), ERRORS, ids=lambda value: getattr(value, "kind", ""))
def test_failure_before_first_chunk_returns_error_status(
    error: StreamError, status: int, kind: str, streamed: bool
) -> None:
    result, headers, body = request_played([(0.0, error)], {**STREAMED_BODY, "stream": streamed})
    assert (result, headers["content-type"]) == (status, "application/json")
    fields = json.loads(body)["error"]
    assert (fields["type"], fields["code"], fields["message"]) == (kind, error.kind, error.message)
    assert set(fields) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("script", [[(0.0, TextDelta("part")), (0.0, ServerError("down"))], [(0.0, TextDelta("part"))]])
def test_failure_mid_stream_sends_error_event_and_no_done(script: list[ScriptStep]) -> None:
    status, _, body = request_played(script)
    assert status == 200
    assert "[DONE]" not in sse_data_lines(body)
    *before, error = parse_chunks(body)
    assert [c["choices"][0]["delta"].get("content") for c in before] == ["", "part"]
    assert all(c["choices"][0]["finish_reason"] is None for c in before)
    assert error["error"]["type"] == "api_error" and error["error"]["message"]


def test_internal_defect_returns_502_internal() -> None:
    defect: Any = None  # text that is no text, so that the pipeline itself fails
    script: list[ScriptStep] = [(0.0, TextDelta(defect))]
    for streamed in (True, False):
        status, _, body = request_played(script, {**STREAMED_BODY, "stream": streamed})
        assert (status, json.loads(body)["error"]["code"]) == (502, "internal")


UNKNOWN_MODELS: dict[str, tuple[str, str]] = {
    "unknown provider": ("opneai:x", "opneai"),
    "a key is missing": ("openai:gpt-6.1-terra", "OPENAI_API_KEY"),
    "no name": ("", "provider '': unknown"),
    "a file of the server's": ("replay:/etc/passwd", "not offered"),
}


@pytest.mark.parametrize("name", UNKNOWN_MODELS)
def test_unknown_model_returns_404_model_not_found(name: str) -> None:
    model, says = UNKNOWN_MODELS[name]
    status, _, body = request_completion(ProvidersWithoutModel(Settings()), {**STREAMED_BODY, "model": model})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert says in error["message"]


REJECTED_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "several answers": ({"n": 2}, "n"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "json mode": ({"response_format": {"type": "json_object"}}, "response_format"),
    "stop words": ({"stop": ["x"]}, "stop"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "text"),
    "no question": ({"messages": []}, "no text"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
    "temperature": ({"temperature": 3}, "temperature"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens"),
    "strategy": ({"strategy": "bacth"}, "choose one of"),
    "a surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
}


@pytest.mark.parametrize("name", REJECTED_BODIES)
def test_unsupported_request_is_rejected_in_openai_shape(name: str) -> None:
    fields, says = REJECTED_BODIES[name]
    status, _, body = request_completion(
        ProvidersWithoutModel(Settings()), {**STREAMED_BODY, "model": "sim:steady", **fields}
    )
    error = json.loads(body)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["code"] == ("bad_request" if name == "strategy" else "invalid")
    assert says in error["message"] and "\n" not in error["message"]
    assert "function-after" not in error["message"] and "list[" not in error["message"]
    if "messages" in fields and name != "no question":
        assert error["param"].startswith("messages.0.")


def test_content_parts_and_newer_fields_are_accepted() -> None:
    adapter = ScriptedAdapter(words_script(1, first_s=0.0))
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "three."}]
    body = {
        **STREAMED_BODY,
        "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}],
        "max_completion_tokens": 9, "max_tokens": 5, "n": 1, "seed": 7, "user": "u", "store": False, "tools": [],
        "stream_options": None, "stop": None, "response_format": None, "temperature": None,
    }  # fmt: skip
    assert request_completion(SingleAdapterProviders(adapter), body)[0] == 200
    (requests,) = adapter.requests
    assert [(m.role, m.content) for m in requests.messages] == [("system", "be brief"), ("user", "Name three.")]
    assert (requests.max_tokens, requests.streamed) == (9, True)


def test_null_fields_are_treated_as_absent() -> None:
    body = {
        **COMPLETION_BODY,
        **dict.fromkeys(("stream", "stream_options", "max_tokens", "n", "tools", "stop", "user")),
    }
    status, _, answer = request_played(words_script(1, first_s=0.0), body)
    assert (status, json.loads(answer)["object"]) == (200, "chat.completion")
    status, _, answer = request_played(
        words_script(1, first_s=0.0), {**STREAMED_BODY, "stream_options": {"include_usage": None}}
    )
    assert (status, [c for c in parse_chunks(answer) if not c["choices"]]) == (200, [])


def test_assistant_turn_without_text_is_accepted_and_a_user_turn_is_not() -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None}]
    body = {**COMPLETION_BODY, "messages": [*turns, {"role": "user", "content": "And now?"}]}
    status, _, answer = request_played(words_script(1, first_s=0.0), body)
    assert status == 200, answer
    body = {**COMPLETION_BODY, "messages": [{"role": "user", "content": None}]}
    assert request_played(words_script(1, first_s=0.0), body)[0] == 400


def test_several_models_are_tried_in_order_and_receipt_names_provider() -> None:
    async def main() -> Response:
        with run_simulator("--ttft-ms", "1", "--gap-ms", "1", "--tokens", "3") as simulator:
            async with serve_simulator(simulator) as port:
                body = {
                    **STREAMED_BODY,
                    "model": "openai:fault-429-retry-after-900, openai:steady",
                    "stream_options": {"include_usage": True},
                }
                return await (await send_request(port, COMPLETIONS, body)).read_response()

    status, _, body = asyncio.run(main())
    assert status == 200
    assert parse_chunks(body)[-1]["streamgauge"]["provider"] == "openai:steady"
    assert sse_data_lines(body)[-1] == "[DONE]"


def test_models_endpoint_lists_only_available_models() -> None:
    def list_model_ids(settings: Settings) -> set[str]:
        status, _, body = request_completion(ProvidersWithoutModel(settings), None, path="/v1/models", method="GET")
        assert (status, json.loads(body)["object"]) == (200, "list")
        assert {model["object"] for model in json.loads(body)["data"]} == {"model"}
        return {model["id"] for model in json.loads(body)["data"]}

    def model_status(name: str) -> int:
        return request_completion(ProvidersWithoutModel(Settings()), None, path=f"/v1/models/{name}", method="GET")[0]

    assert (model_status("sim:steady"), model_status("openai:gpt-6.1-terra")) == (200, 404)
    without, with_key = list_model_ids(Settings()), list_model_ids(Settings({"OPENAI_API_KEY": "k"}))
    assert {"local", "sim:steady"} <= without
    assert {name.partition(":")[0] for name in with_key - without} == {"openai", "openai-responses"}


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/models"])
def test_missing_api_key_returns_401_in_openai_shape(path: str) -> None:
    method = "POST" if path == COMPLETIONS else "GET"
    for key, status in ((None, 401), ("sg-wrong", 401), (KEY, 200)):
        headers = {"authorization": f"Bearer {key}"} if key else None
        adapter = ScriptedAdapter(words_script(1, first_s=0.0))
        result, answer, body = request_completion(
            SingleAdapterProviders(adapter),
            COMPLETION_BODY,
            path=path,
            method=method,
            variables=KEYS_VARIABLES,
            headers=headers,
        )
        assert result == status
        if status == 401:
            assert (json.loads(body)["error"]["type"], answer["www-authenticate"]) == ("authentication_error", "Bearer")
            assert adapter.requests == []


def test_rate_limited_request_returns_retry_after() -> None:
    async def main() -> list[Response]:
        async with serve_providers(
            SingleAdapterProviders(ScriptedAdapter(words_script(1, first_s=0.0))), {"RATE_LIMIT": "1/minute"}
        ) as port:
            return [await (await send_request(port, COMPLETIONS, COMPLETION_BODY)).read_response() for _ in range(2)]

    (first, _, _), (second, headers, body) = asyncio.run(main())
    assert (first, second) == (200, 429)
    assert 1 <= int(headers["retry-after"]) <= 60
    assert json.loads(body)["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 405), ("/v1/embeddings", 404)])
def test_unknown_path_or_method_is_rejected_in_openai_shape(path: str, status: int) -> None:
    result, _, body = request_completion(
        SingleAdapterProviders(ScriptedAdapter(words_script(1))), None, path=path, method="GET"
    )
    assert result == status
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
