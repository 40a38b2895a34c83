"""A bare relay as the baseline for the service: it reads with httpx2, parses each event and sends it on.

It has no guard, retry, timeout, strategy, meter, filter or resume, and does not wait for cancellations.
"""

import sys

import httpx2
import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from streaming import sse


class BaselineRelay:
    """An ASGI application that sends every POST to the upstream and responds in the service's format."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/chat/completions"
        self._client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=None, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        body = orjson.loads((await receive())["body"])
        headers = {k.decode(): v.decode() for k, v in scope["headers"] if k == b"x-client-request-id"}
        model = body["provider"].partition(":")[2]
        request = {"model": model, "messages": [{"role": "user", "content": body["message"]}], "stream": True}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async with self._client.stream("POST", self._url, json=request, headers=headers) as response:
            decoder = sse.Decoder()
            async for data in response.aiter_raw():
                out = b"".join(_encode_relayed(event) for event in decoder.feed(data))
                await send({"type": "http.response.body", "body": out, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encode_relayed(event: sse.ServerSentEvent) -> bytes:
    if event.data == "[DONE]":
        return b"data: [DONE]\n\n"
    choices = orjson.loads(event.data)["choices"]
    text = choices[0]["delta"].get("content") if choices else None
    return b"data: %b\n\n" % orjson.dumps({"content": text}) if text else b""


class _AnnouncingServer(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    _AnnouncingServer(
        uvicorn.Config(BaselineRelay(sys.argv[1]), port=0, lifespan="off", log_level="warning", access_log=False)
    ).run()
