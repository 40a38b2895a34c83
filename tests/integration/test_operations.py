"""Operation of the service: health, metrics, logs and shutdown."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest
import websockets

from streaming.events import Notice
from tests.asgi_server import SingleAdapterProviders, serve_providers, wait_until
from tests.failing_start import start_and_fail
from tests.integration.captured_service import ROOT, RunningService, run_service
from tests.integration.service_over_simulator import SentRequest, count_open_streams, scrape_metrics, send_request
from tests.scripted_adapter import ScriptedAdapter, words_script
from tests.simulator_process import run_simulator_process

CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
COMPLETION_BODY = {"model": "p", "messages": [{"role": "user", "content": "a"}], "strategy": "direct", "stream": True}
CHAT, COMPLETIONS = "/api/chat", "/v1/chat/completions"
SIM_BODY = {"message": "Name three colours.", "provider": "sim:steady"}
KEY = "sg-ann-0123456789abcdef0123456789abcdef"
CANARY = "xylophone-canary-4711"


async def read_health(port: int) -> dict[str, Any]:
    status, headers, body = await (await send_request(port, "/healthz", method="GET")).read_response()
    assert (status, headers["content-type"]) == (200, "application/json")
    fields: dict[str, Any] = json.loads(body)
    return fields


def test_healthz_reports_local_model_and_open_streams() -> None:
    async def main() -> list[dict[str, Any]]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(900, first_s=0.0)))) as port:
            result = [await read_health(port)]
            response = await send_request(port, CHAT, CHAT_BODY)
            await response.reader.readuntil(b"start")
            result.append(await read_health(port))
            response.drop()
            while (now := await read_health(port))["streams_open"]:
                pass
            return [*result, now]

    result = asyncio.run(main())
    assert [fields["streams_open"] for fields in result] == [0, 1, 0]
    assert {(fields["status"], fields["local_model"]) for fields in result} == {("ok", "idle")}


def test_metrics_count_answers_rejections_and_cancellations() -> None:
    script = [(0.0, Notice("retry", "again")), *words_script(3, first_s=0.06, gap_s=0.02)]

    async def main() -> dict[str, float]:
        adapter = ScriptedAdapter(script, script, script, words_script(900, first_s=0.0, gap_s=0.01))
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            for path, body in (
                (CHAT, CHAT_BODY),
                (CHAT, {**CHAT_BODY, "stream": False}),
                (COMPLETIONS, COMPLETION_BODY),
            ):
                assert (await (await send_request(port, path, body)).read_response())[0] == 200
            await (await send_request(port, CHAT, {**CHAT_BODY, "message": "a" * 32_001})).read_response()
            response = await send_request(port, CHAT, {**CHAT_BODY, "provider": "q:x"})
            await response.reader.readuntil(b"data: {")
            response.drop()
            await wait_until(lambda: adapter.open == 0)
            while count_open_streams(result := await scrape_metrics(port)):
                pass
            return result

    result = asyncio.run(main())
    name = "streamgauge_"
    for wire in ("sse", "json", "openai"):
        assert result[f'{name}answers_total{{outcome="completed",provider="p",wire="{wire}"}}'] == 1
        assert result[f'{name}streams_open{{wire="{wire}"}}'] == 0
    assert result[f'{name}answers_total{{outcome="cancelled",provider="q",wire="sse"}}'] == 1
    assert result[f'{name}tokens_total{{kind="output",provider="p",source="reported"}}'] == 9
    assert result[f'{name}tokens_total{{kind="input",provider="p",source="reported"}}'] == 12
    assert result[f'{name}answers_unpriced_total{{provider="p"}}'] == 3
    assert result[f'{name}notices_total{{kind="retry",provider="p"}}'] == 3
    assert result[f'{name}refusals_total{{rule="validation.length"}}'] == 1
    assert result[f'{name}ttft_seconds_count{{provider="p"}}'] == 3
    assert result[f'{name}ttft_seconds_bucket{{le="0.05",provider="p"}}'] == 0
    assert result[f'{name}ttft_seconds_sum{{provider="p"}}'] >= 3 * 0.06
    assert result[f'{name}chunk_gap_seconds_count{{provider="p"}}'] == 6
    assert result[f'{name}chunk_gap_seconds_sum{{provider="p"}}'] >= 6 * 0.02
    assert result[f"{name}stop_seconds_count"] == 1


def test_log_has_one_json_line_per_answer_without_content() -> None:
    variables = {"API_KEYS": f"ann=sha256:{sha256(KEY.encode()).hexdigest()}", "OPENAI_API_KEY": "sk-canary-0123456789"}

    async def main(port: int) -> str:
        headers = {"authorization": f"Bearer {KEY}", "x-client-request-id": "mine-7"}
        text = ""
        for fields in (
            {"stream": False},
            {"system": CANARY},
            {"provider": "sim:error", "max_tokens": 64},
            {"message": "a" * 32_001},
        ):
            body = {**SIM_BODY, "message": f"What is a {CANARY}?", "max_tokens": 9, **fields}
            _, _, answer = await (await send_request(port, CHAT, body, headers=headers)).read_response()
            text = text or json.loads(answer)["content"]
        uri = f"ws://127.0.0.1:{port}/api/chat/ws"
        async with websockets.connect(uri, subprotocols=["streamgauge", f"bearer.{KEY}"]) as socket:  # type: ignore[list-item]  # as browsers send them
            await socket.send(json.dumps({**SIM_BODY, "message": CANARY, "max_tokens": 2}))
            while json.loads(await socket.recv())["type"] != "done":
                pass
        await (
            await send_request(port, CHAT, {"message": CANARY}, headers={"authorization": f"Bearer {CANARY}"})
        ).read_response()
        return text

    with run_service(**variables) as service:
        text = asyncio.run(main(service.port))
        assert service.stop_and_wait() in (0, -signal.SIGTERM)
        output = service.stderr_text()
        answers = [line for line in service.log_lines() if line["event"] == "answer"]
    for secret in (CANARY, KEY, variables["OPENAI_API_KEY"], variables["API_KEYS"][-64:], text[:12]):
        assert secret not in output
    assert [(line["wire"], line["outcome"]) for line in answers] == [
        ("json", "completed"), ("sse", "completed"), ("sse", "failed"), ("websocket", "completed")
    ]  # fmt: skip
    first = answers[0]
    assert (first["request_id"], first["caller"], first["provider"]) == ("mine-7", "key:ann", "sim:steady")
    assert (first["served_by"], first["strategy"], first["level"], first["attempts"]) == (
        "sim:steady", "batch:100ms", "info", 1
    )  # fmt: skip
    assert 0 < answers[1]["ttft_s"] < answers[1]["elapsed_s"]
    assert first["delivered_chars"] == len(text)
    assert answers[2]["error"] == "server_error"


async def signal_and_read(service: RunningService, number: signal.Signals) -> tuple[bytes, list[str], int | None]:
    """Signal a service during answers over two transports; return what both readers received, and the close code."""
    response = await send_request(service.port, CHAT, SIM_BODY)
    async with websockets.connect(f"ws://127.0.0.1:{service.port}/api/chat/ws") as socket:
        await socket.send(json.dumps(SIM_BODY))
        frames = [json.loads(await socket.recv())["type"]]
        body = await response.reader.readuntil(b"start")
        service.process.send_signal(number)
        await service.wait_port_closed()
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frames.append(json.loads(await socket.recv())["type"])
        return body + await response.read_rest(), frames, socket.close_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_answers_finish_and_rejects_new_requests(number: signal.Signals) -> None:
    with run_service() as service:
        body, frames, code = asyncio.run(signal_and_read(service, number))
        assert service.process.wait(120) in (0, -number)
        output = service.stderr_text()
    assert body.count(b"data: [DONE]") == 1
    assert (frames[-1], code) == ("done", 1012)
    assert "Traceback" not in output


def test_answers_after_shutdown_grace_get_shutting_down_on_every_transport() -> None:
    async def main() -> tuple[list[tuple[int, dict[str, str], bytes]], list[dict[str, Any]], int | None]:
        adapter = ScriptedAdapter(words_script(9000, first_s=0.0, gap_s=0.01))
        bodies = ((CHAT, CHAT_BODY), (COMPLETIONS, COMPLETION_BODY), (CHAT, {**CHAT_BODY, "stream": False}))
        async with contextlib.AsyncExitStack() as stack:
            port = await stack.enter_async_context(serve_providers(SingleAdapterProviders(adapter), grace_s=0.2))
            responses: list[SentRequest] = [await send_request(port, path, body) for path, body in bodies]
            socket = await websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws")
            for _ in range(2):  # the second waits, and is not begun
                await socket.send(json.dumps(CHAT_BODY))
            await wait_until(lambda: adapter.open == 4 and adapter.given > 40)
            await stack.aclose()  # the service stops
            assert (adapter.open, len(adapter.requests)) == (0, 4)
            frames = []
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    frames.append(json.loads(await socket.recv()))
            return [await connection.read_response() for connection in responses], frames, socket.close_code

    (sse, openai, whole), frames, code = asyncio.run(main())
    last = [json.loads(body.splitlines()[-2].removeprefix(b"data: "))["error"] for _, _, body in (sse, openai)]
    assert (last[0]["type"], last[1]["code"]) == ("shutting_down", "shutting_down")
    assert b"[DONE]" not in sse[2] + openai[2]
    assert (whole[0], json.loads(whole[2])["error"]["type"]) == (502, "shutting_down")
    assert json.loads(whole[2])["content"].startswith("w0 w1 ")
    assert (frames[-1]["type"], frames[-1]["error"]["type"], code) == ("error", "shutting_down", 1012)


def test_websocket_frame_limit_matches_body_limit() -> None:
    async def main(port: int) -> list[tuple[dict[str, Any], int | None]]:
        result = []
        for length in (1_500_000, 2_500_000):
            async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket:
                await socket.send(json.dumps({**SIM_BODY, "message": "a" * length, "max_tokens": 1}))
                while (frame := json.loads(await socket.recv()))["type"] not in ("done", "error"):
                    pass
                if frame["type"] == "error":
                    await socket.wait_closed()
                result.append((frame, socket.close_code))
        return result

    large = {"MAX_MESSAGE_CHARS": "9000000", "MAX_CONVERSATION_CHARS": "9000000", "MAX_BODY_BYTES": "2000000"}
    with run_service(**large) as service:
        (answered, _), (refused, code) = asyncio.run(main(service.port))
    assert answered["type"] == "done"
    assert (refused["error"]["rule"], code) == ("validation.size", 1009)


def test_service_raises_fd_limit_to_hard_limit() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))  # what it starts with, from here
    try:
        with run_service() as service:
            result = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert result == (limits[1], limits[1])


def test_second_interrupt_ends_service_at_once() -> None:
    async def main(service: RunningService) -> None:
        response = await send_request(service.port, CHAT, {**SIM_BODY, "provider": "openai:m", "max_tokens": 5000})
        await response.reader.readuntil(b"start")
        service.process.send_signal(signal.SIGINT)
        await service.wait_port_closed()
        service.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(service.process.wait, 20)  # before the grace period is over
        assert b"[DONE]" not in await response.read_rest()

    with (
        run_simulator_process("--tokens", "5000", "--gap-ms", "20") as upstream,
        run_service(OPENAI_BASE_URL=f"{upstream}/v1", OPENAI_API_KEY="k") as service,
    ):
        asyncio.run(main(service))
        assert "Traceback" not in service.stderr_text()


def test_all_invalid_variables_are_reported_one_per_line() -> None:
    variables = {"READER_TIMEOUT_S": "soon", "RATE_LIMIT": "often", "API_KEYS": "ann=sg-secret-key"}
    done = subprocess.run(
        [sys.executable, "app.py", "--port", "0"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 3) and "sg-secret" not in done.stderr
    assert [line.split(": ")[:2] for line in lines] == [["error", name] for name in variables]


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["--no-ui", "--workers", "2"], {}, "REDIS_URL"),
        (["--workers", "2"], {"REDIS_URL": "redis://127.0.0.1:1/0"}, "--no-ui"),
        (["--no-ui", "--workers", "0"], {}, "--workers"),
        (["--no-ui", "--workers", "2"], {"REDIS_URL": "127.0.0.1"}, "REDIS_URL"),
        (["--no-ui"], {"READER_TIMEOUT_S": "soon"}, "READER_TIMEOUT_S"),
        (["--no-ui"], {"RATE_LIMIT": "often"}, "RATE_LIMIT"),
        (["--no-ui"], {"API_KEYS": "ann=sg-secret-key"}, "API_KEYS"),
    ],
)
def test_invalid_service_options_exit_with_one_line(
    arguments: list[str], variables: dict[str, str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done = start_and_fail(capfd, "--port", "0", *arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr and "sg-secret" not in done.stderr
