"""The service: its routes, and the refusal of what is none of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from guard import Guard
from providers import Providers
from providers.offer import Offer
from server import openai_api
from server.body import ChatBody, entry_number
from server.door import Door
from server.faults import FAULTS, Refused, Responses, answering, described
from server.frames import bill, error_fields
from server.guarded import Guarded
from server.hosts import AllowedHosts, HostMiddleware
from server.metrics import Metrics
from server.sse import EventStream
from server.websocket import Conversation
from server.whole import collected
from settings import Settings
from streaming.clock import monotonic
from streaming.errors import UsageError

VERSION = "0.1.0"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create(
    providers: Providers,
    guard: Guard,
    settings: Settings,
    *,
    offer: Offer | None = None,
    grace_s: float = 30.0,
    hosts: AllowedHosts | None = None,
) -> FastAPI:
    """Build the service over `providers`, which it warms up at its start and closes at its end, with `guard` before it.

    `offer`: which models callers may ask; by default as where nobody knows what address the service listens on.
    `grace_s`: how long answers that are under way may go on when the service is told to stop. `hosts`: under which
    names it may be asked, by default any. Raise UsageError.
    """
    metrics = Metrics(settings.metrics_folder)
    offer = offer or Offer.from_settings(settings, settings.listening_host)
    door = Door(providers, offer, guard, metrics, monotonic, settings.redis_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        door.start()
        try:
            yield {"drain": partial(door.streams.drain, grace_s), "count_refusal": metrics.count_refusal}
        finally:
            await door.aclose()

    app = FastAPI(title="Streamgauge", version=VERSION, lifespan=lifespan, redirect_slashes=False)
    app.state.door = door
    app.include_router(routes)
    app.include_router(openai_api.routes)
    app.include_router(rest)
    for fault, answer in FAULTS.items():
        app.add_exception_handler(fault, answer)
    _add_middleware(app, guard, metrics, settings.allowed_origins, hosts or AllowedHosts())
    return app


def _add_middleware(app: FastAPI, guard: Guard, metrics: Metrics, origins: frozenset[str], hosts: AllowedHosts) -> None:
    """Add what stands in front of every route; the last that is added is asked first."""
    app.add_middleware(Guarded, guard=guard, metrics=metrics, origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the SDKs send many of their own
            expose_headers=["Retry-After"],
        )
    app.add_middleware(HostMiddleware, hosts=hosts, metrics=metrics)


_RESUMED: Responses = {**answering("text/event-stream"), 204: {"description": "All was read"}}
routes, rest = APIRouter(responses=described(Refused)), APIRouter()


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


@routes.post("/api/chat", response_class=Response, responses=answering("text/event-stream", "application/json"))
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer as Server-Sent Events, or as one JSON object with `"stream": false`."""
    door = _door(request)
    wire = "sse" if body.stream else "json"
    stream = await door.ask(body, request.state.caller, wire, request.headers.get("x-client-request-id"))
    if body.stream:
        return EventStream(await door.reading(stream, body.resume), stream.id)
    text, _ = await collected(stream, request.receive)
    receipt = stream.receipt()
    fields = {"stream_id": stream.id, "content": text, "finish_reason": receipt.finish_reason, **bill(receipt)}
    if receipt.error is not None:
        return JSONResponse({**error_fields(receipt.error), **fields}, 502)
    return JSONResponse({**fields, "outcome": receipt.outcome})


@routes.post("/api/chat/stream", response_class=Response, responses=answering("text/event-stream"))
async def chat_stream(body: ChatBody, request: Request) -> Response:
    """Answer as Server-Sent Events, whatever `stream` says."""
    return await chat(body.model_copy(update={"stream": True}), request)


@routes.get("/api/chat/stream/{stream_id}", response_class=Response, responses=_RESUMED)
async def resume(stream_id: str, request: Request, last_event_id: str | None = None) -> Response:
    """Continue a stream that was asked for with `"resume": true`, after `Last-Event-ID`; 204 when all was read."""
    try:
        after = entry_number(stream_id, request.headers.get("last-event-id") or last_event_id)
    except ValueError as fault:
        raise UsageError(str(fault)) from None
    reading = await _door(request).resumed(stream_id, request.state.caller, after)
    if reading.ended:
        await reading.aclose()
        return Response(status_code=204)
    return EventStream(reading, stream_id)


@routes.delete("/api/chat/stream/{stream_id}")
async def cancel(stream_id: str, request: Request) -> dict[str, Any]:
    """Stop a stream; gives the receipt: what was delivered, what it cost, how fast the provider stopped."""
    return await _door(request).cancel(stream_id, request.state.caller)


@routes.websocket("/api/chat/ws")
async def websocket(socket: WebSocket) -> None:
    """Answer questions one after another on one socket."""
    await Conversation(socket, socket.app.state.door).run()


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    """Say that the service lives, how far the local model is or why it failed, and how many answers are under way."""
    door = _door(request)
    local = door.providers.local.state
    return {
        "status": "ok",
        "version": VERSION,
        "local_model": local.kind,
        "local_model_error": local.error,
        "streams_open": len(door.streams),
    }


@routes.head("/metrics", include_in_schema=False)
@routes.get("/metrics", response_class=Response, responses=answering("text/plain"))
async def metrics(request: Request) -> Response:
    """Give the figures for Prometheus."""
    return Response(_door(request).metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@rest.api_route("/api/{path:path}", methods=list(_METHODS), include_in_schema=False)
@rest.api_route("/v1/{path:path}", methods=list(_METHODS), include_in_schema=False)
async def elsewhere(request: Request) -> Response:
    """Refuse what is not offered in this service's own words; the page, mounted behind, would answer otherwise."""
    path = request.url.path
    if path == "/api/chat/ws":
        raise HTTPException(426, "this address speaks WebSocket", {"Upgrade": "websocket", "Connection": "Upgrade"})
    if methods := _offered(request):
        raise HTTPException(405, f"ask with {' or '.join(methods)}", {"Allow": ", ".join(methods)})
    raise HTTPException(404, f"there is no {path} here")


def _offered(request: Request) -> list[str]:
    """Give the methods that the asked address does take, as the routes say."""
    known = [route for route in (*routes.routes, *openai_api.routes.routes) if isinstance(route, APIRoute)]
    partly = [route for route in known if route.matches(request.scope)[0] is Match.PARTIAL]
    return [method for method in _METHODS if any(method in (route.methods or ()) for route in partly)]
