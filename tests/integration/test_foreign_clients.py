"""Third-party clients against the running service."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.asyncio.client import connect

from tests.asgi_server import post_and_read, wait_until
from tests.integration.cutting_proxy import run_cutting_proxy
from tests.service_process import run_service_process
from tests.simulator_process import run_simulator_process

FOREIGN = Path(__file__).parents[1] / "foreign"
MESSAGES: Any = [{"role": "user", "content": "Name three colours."}]
NODE_TIMEOUT_S = 200.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_service_process() as url:
        yield url


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """Start a service that requires a key and allows it one request a minute."""
    with run_service_process(
        API_KEYS=f"tester=sha256:{hashlib.sha256(b'right').hexdigest()}", RATE_LIMIT="1/minute"
    ) as url:
        yield url


@pytest.fixture
def node_command(packages: Path, tmp_path: Path) -> list[str]:
    """Return the beginning of a command that runs a script of tests/foreign: its name and arguments follow."""
    result = shutil.which("node")
    assert result is not None, "npm is there, node is not: install it"
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(FOREIGN / "package.json", tmp_path)
    for script in FOREIGN.glob("*.mjs"):
        shutil.copy(script, tmp_path)
    return [result, str(tmp_path)]


async def run_node_script(node: list[str], script: str, *arguments: str) -> Any:
    """Run a script and return the object that it prints."""
    program, folder = node
    process = await asyncio.create_subprocess_exec(
        program, f"{folder}/{script}", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, problems = await asyncio.wait_for(process.communicate(), NODE_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, problems.decode()
    return json.loads(output)


def ask_whole(url: str, **fields: Any) -> dict[str, Any]:
    """Return the service's own non-streamed answer to the same prompt."""
    body = {"message": "Name three colours.", "provider": "sim:steady", "max_tokens": 8, "stream": False, **fields}
    reply = asyncio.run(post_and_read(int(url.rpartition(":")[2]), body))
    assert reply.status == 200, reply.body
    result: dict[str, Any] = reply.json()
    return result


# ---- openai for Python ----


def test_openai_sdk_streams_answer_with_usage(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model="sim:steady", messages=MESSAGES, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
        )
    expected = ask_whole(url)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected["content"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 8)
    assert len({c.id for c in chunks}) == 1


def test_openai_sdk_reads_whole_answer_and_accepts_strategy(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        whole = client.chat.completions.create(model="sim:steady", messages=MESSAGES, max_tokens=8)
        completion = client.chat.completions.create(
            model="sim:steady", messages=MESSAGES, max_tokens=8, stream=True, extra_body={"strategy": "whole"}
        )
        pieces = [c.choices[0].delta.content for c in completion if c.choices and c.choices[0].delta.content]
        models = [model.id for model in client.models.list()]
    assert whole.choices[0].message.content == ask_whole(url)["content"]
    assert whole.usage is not None and whole.usage.total_tokens == 13
    assert pieces == [whole.choices[0].message.content]
    assert "sim:steady" in models


def test_openai_sdk_reads_thinking_from_reasoning_content(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        completion = client.chat.completions.create(model="sim:thinking", messages=MESSAGES, stream=True)
        thought = [getattr(c.choices[0].delta, "reasoning_content", None) for c in completion if c.choices]
    assert sum(bool(piece) for piece in thought) > 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"model": "nobody:at-all"}, openai.NotFoundError),
        ({"model": "sim:no-such-profile"}, openai.NotFoundError),
    ],
    ids=["temperature", "no message", "no provider", "no model"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_sdk_raises_bad_request_for_rejections(
    fields: dict[str, Any], error: type[openai.APIStatusError], stream: bool, url: str
) -> None:
    question: dict[str, Any] = {"model": "sim:steady", "messages": MESSAGES, "stream": stream, **fields}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client, pytest.raises(error) as excinfo:
        client.chat.completions.create(**question)
    assert 400 <= excinfo.value.status_code < 500
    assert isinstance(excinfo.value.body, dict)
    assert {"message", "type", "param", "code"} <= set(excinfo.value.body)
    assert excinfo.value.body["message"]


def test_openai_sdk_raises_not_found_authentication_and_rate_limit_errors(guarded_url: str) -> None:
    def error_of_request(key: str, path: str = "/v1") -> object:
        with openai.OpenAI(base_url=f"{guarded_url}{path}", api_key=key, max_retries=0) as client:
            return client.chat.completions.create(model="sim:steady", messages=MESSAGES, max_tokens=2)

    with pytest.raises(openai.NotFoundError):
        error_of_request("right", "/v1/elsewhere")
    assert error_of_request("right")
    with pytest.raises(openai.RateLimitError) as limited:
        error_of_request("right")
    assert int(limited.value.response.headers["retry-after"]) > 0
    with pytest.raises(openai.AuthenticationError):
        error_of_request("wrong")


def test_openai_sdk_stream_close_disconnects_from_provider(tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"

    def is_closed() -> bool:
        lines = map(json.loads, log.read_text().splitlines())
        return any((line["request_id"], line["event"]) == ("left", "closed") for line in lines)

    async def main(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="openai:m", messages=MESSAGES, stream=True, extra_headers={"X-Client-Request-Id": "left"}
            )
            async with stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break
                assert not is_closed()
            await wait_until(is_closed)

    arguments = ("--tokens", "5000", "--gap-ms", "20", "--log", str(log))
    with ExitStack() as running:
        upstream = running.enter_context(run_simulator_process(*arguments))
        asyncio.run(
            main(running.enter_context(run_service_process(OPENAI_BASE_URL=f"{upstream}/v1", OPENAI_API_KEY="k")))
        )


# ---- for JavaScript ----


def test_javascript_openai_sdk_reads_streamed_and_whole_answers(node_command: list[str], url: str) -> None:
    result = asyncio.run(run_node_script(node_command, "openai_sdk.mjs", url))
    expected = ask_whole(url)
    assert result["streamed"] == result["whole"] == expected["content"]
    assert result["finish"] == result["whole_finish"] == "length"
    for usage in (result["usage"], result["whole_usage"]):
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 8, 13)
    assert "sim:steady" in result["models"]
    assert (result["refused"]["name"], result["refused"]["status"]) == ("BadRequestError", 400)
    assert "temperature" in result["refused"]["message"]


def test_javascript_ai_sdk_reads_answers_and_errors(node_command: list[str], url: str) -> None:
    result = asyncio.run(run_node_script(node_command, "ai_sdk.mjs", url))
    steady = result["steady"]
    assert (steady["text"], steady["finish"], steady["errors"]) == (ask_whole(url)["content"], "length", [])
    assert (steady["usage"]["inputTokens"], steady["usage"]["outputTokens"]) == (5, 8)
    assert result["thinking"]["thinking"]
    (refused,) = result["refused"]["errors"]
    assert refused["status"] == 404
    assert "nobody" in refused["message"]
    assert result["broken"]["errors"], "an answer that broke is an error there, not an end"
    assert result["broken"]["text"]


def test_npm_eventsource_reconnects_without_loss_or_duplication(node_command: list[str], url: str) -> None:
    async def main() -> tuple[str, Any]:
        port = int(url.rpartition(":")[2])
        body = {"message": "Hi", "provider": "sim:steady", "strategy": "direct", "max_tokens": 30, "resume": True}
        whole = await post_and_read(port, body, "/api/chat/stream")
        stream_id = whole.sse_events()[0].id.partition(":")[0]
        text = "".join(
            json.loads(e.data)["content"] for e in whole.sse_events() if e.event == "message" and e.data[0] == "{"
        )
        async with run_cutting_proxy([url], [900]) as proxy:
            return text, await run_node_script(node_command, "eventsource.mjs", proxy.url, stream_id)

    text, result = asyncio.run(main())
    assert result["text"] == text
    assert result["opened"] == 2
    assert result["finish"]["finish_reason"] == "length"
    numbers = [int(id.rpartition(":")[2]) for id in result["ids"]]
    assert numbers == list(range(1, len(numbers) + 1)), "nothing lost, nothing twice"


def test_npm_ws_client_reads_answers_and_rejections(node_command: list[str], url: str) -> None:
    result = asyncio.run(run_node_script(node_command, "ws.mjs", url))
    assert result["protocol"] == "streamgauge"
    assert result["texts"] == [ask_whole(url)["content"]] * 2
    assert (result["types"][0], result["types"][-2:]) == ("start", ["finish", "done"])
    assert result["finish"]["finish_reason"] == "length"
    assert result["stopped"]["type"] == "cancelled"
    assert result["refused"]["error"]["type"] in ("invalid", "bad_request")
    assert result["closed"][0] == 1008


# ---- for Python, without ours ----


def test_python_websockets_client_reads_ordered_frames(url: str) -> None:
    async def main() -> list[dict[str, Any]]:
        async with connect(f"ws{url.removeprefix('http')}/api/chat/ws") as socket:
            await socket.send('{"message": "Name three colours.", "provider": "sim:steady", "max_tokens": 8}')
            frames: list[dict[str, Any]] = []
            while not frames or frames[-1]["type"] != "done":
                frames.append(json.loads(await socket.recv()))
            return frames

    frames = asyncio.run(main())
    assert "".join(f["content"] for f in frames if f["type"] == "chunk") == ask_whole(url)["content"]
    stream_id = frames[0]["stream_id"]
    assert [frame["id"] for frame in frames] == [f"{stream_id}:{n}" for n in range(1, len(frames) + 1)]


@pytest.mark.parametrize("options", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_llm_command_prints_answer(options: tuple[str, ...], url: str, tmp_path: Path) -> None:
    models = f"- model_id: gauge\n  model_name: sim:steady\n  api_base: {url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    # Plugins that happen to be installed are not what is asked about.
    variables = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "OPENAI_API_KEY": "any"}
    command = [sys.executable, "-m", "llm", "-m", "gauge", "-o", "max_tokens", "8", *options, "Name three colours."]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=NODE_TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == ask_whole(url)["content"].rstrip("\n")
