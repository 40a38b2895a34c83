"""How the OpenAI API of the service reports answers that ended in order without a success."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from providers import ProviderRegistry
from tests.asgi_server import serve_providers
from tests.integration.provider_cases import CASES
from tests.integration.raw_server import RawConnection, run_raw_server

REFUSAL = "I cannot help with that."


def ask(delta: dict[str, Any], reason: str, *, stream: bool) -> httpx2.Response:
    """Return the response of the service when the provider sends this delta and finish reason."""

    async def script(connection: RawConnection) -> None:
        connection.start("text/event-stream")
        for piece in ({"delta": delta, "finish_reason": None}, {"delta": {}, "finish_reason": reason}):
            connection.send(b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, **piece}]}).encode())
        connection.send(b"data: [DONE]\n\n")
        connection.end()

    async def main() -> httpx2.Response:
        case = CASES["openai"]
        async with (
            run_raw_server(script) as server,
            serve_providers(ProviderRegistry(case.settings(server.port))) as port,
            httpx2.AsyncClient() as client,
        ):
            body = {"model": case.name, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
            return await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("delta", "reason", "outcome", "finish_reason"),
    [
        ({"refusal": REFUSAL}, "stop", "refused", "stop"),
        ({"content": ""}, "length", "empty", "length"),
        ({"content": "Once"}, "content_filter", "filtered", "content_filter"),
    ],
)
def test_last_chunk_names_an_outcome_that_is_no_success(
    delta: dict[str, Any], reason: str, outcome: str, finish_reason: str
) -> None:
    response = ask(delta, reason, stream=True)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert (response.status_code, lines[-1]) == (200, "[DONE]")
    last = json.loads(lines[-2])
    assert last["choices"][0]["finish_reason"] == finish_reason
    assert last["streamgauge"]["outcome"] == outcome and last["streamgauge"]["message"]


def test_completed_answer_has_no_outcome_in_its_last_chunk() -> None:
    assert "streamgauge" not in ask({"content": "Hi"}, "stop", stream=True).text
