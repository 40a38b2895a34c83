"""The application: its middleware, its routes, and the errors for unknown paths and methods."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import Lifespan

from guard import Guard
from providers import ProviderRegistry
from server.chat_service import ChatService
from server.error_handlers import ErrorHandlers
from server.error_shapes import OWN_SHAPE, OpenAIRoute, RouteErrorShapes, ShapedRoute
from server.feedback import FeedbackStore
from server.hosts import AllowedHosts, HostMiddleware
from server.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from server.metrics import Metrics
from server.middleware import GuardedRoutes, GuardMiddleware
from server.offer import Offer
from server.openapi import success_response
from server.recordings import AnswerRecorder
from server.root_path import RootPathMiddleware
from server.routes import openai
from server.routes.sse import SSEResponse, collect_answer
from server.routes.websocket import WebSocketSession
from server.schemas import ChatRequestBody, parse_event_id
from server.streams.events import error_fields, receipt_fields
from settings import Settings
from streaming.clock import monotonic
from streaming.errors import UsageError
from streaming.http.root_path import route_path

VERSION = "0.2.0"
"""The project's version. CHANGELOG.md says what is new in it."""
_HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_app(
    providers: ProviderRegistry,
    guard: Guard,
    settings: Settings,
    *,
    offer: Offer | None = None,
    grace_s: float = 30.0,
    hosts: AllowedHosts | None = None,
    limits: ServiceLimits = DEFAULT_SERVICE_LIMITS,
) -> FastAPI:
    """Return the application that serves `providers` behind `guard`.

    The application preloads the local model on startup, and closes the providers and the guard on shutdown. `offer`
    lists the models that callers may use; the default is derived from the settings alone. `grace_s` is how long answers
    under way may continue after the signal to stop. `hosts` are the host names that requests may use, by default any.
    Raises UsageError when the settings are not usable.
    """
    offer = offer or Offer.from_settings(settings, settings.listening_host)
    chat_service = _make_chat_service(providers, offer, guard, settings, limits)
    shapes = RouteErrorShapes((*GUARDED_ROUTERS, open_router), settings.root_path)
    lifespan = _make_lifespan(chat_service, providers, shapes, grace_s)
    # FastAPI's own pages of the API load their scripts from another site; /openapi.json describes it without.
    app = FastAPI(
        title="Streamgauge", version=VERSION, lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None
    )
    app.state.chat_service = chat_service
    app.state.providers = providers
    for one in (open_router, *GUARDED_ROUTERS):
        app.include_router(one)
    for fault, answer in ErrorHandlers(shapes, chat_service.record_rejection).table().items():
        app.add_exception_handler(fault, answer)
    _add_middleware(app, chat_service, shapes, settings.allowed_origins, hosts or AllowedHosts(), limits.body_timeout_s)
    # It comes before all others, which need the path of the route.
    app.add_middleware(RootPathMiddleware, configured=settings.root_path, hops=guard.configuration.hops)
    return app


def _make_chat_service(
    providers: ProviderRegistry, offer: Offer, guard: Guard, settings: Settings, limits: ServiceLimits
) -> ChatService:
    folder, feedback_folder = settings.recordings_folder, settings.feedback_folder
    chat_service = ChatService(
        providers,
        offer,
        guard,
        Metrics(settings.metrics_folder),
        monotonic,
        redis_url=settings.redis_url,
        redis_timeout_s=settings.redis_timeout_s,
        limits=limits,
        recorder=AnswerRecorder(Path(folder), monotonic) if folder else None,
    )
    chat_service.feedback = FeedbackStore(Path(feedback_folder)) if feedback_folder else None
    return chat_service


def _make_lifespan(
    chat_service: ChatService, providers: ProviderRegistry, shapes: RouteErrorShapes, grace_s: float
) -> Lifespan[FastAPI]:
    """Return the application's life: its yielded state is what `server.http_protocol` needs of the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        providers.preload_local_model()
        chat_service.start()
        try:
            yield {
                "drain": partial(chat_service.streams.drain, grace_s),
                "record_rejection": chat_service.record_rejection,
                "error_shapes": shapes,
            }
        finally:
            await chat_service.aclose()

    return lifespan


def _add_middleware(
    app: FastAPI,
    chat_service: ChatService,
    shapes: RouteErrorShapes,
    origins: frozenset[str],
    hosts: AllowedHosts,
    body_timeout_s: float,
) -> None:
    """Add the middleware of every route; the middleware added last runs first."""
    app.add_middleware(
        GuardMiddleware,
        chat_service=chat_service,
        routes=GuardedRoutes(GUARDED_ROUTERS),
        shapes=shapes,
        origins=origins,
        body_timeout_s=body_timeout_s,
    )
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the SDKs send many headers of their own
            expose_headers=["Retry-After"],
        )
    app.add_middleware(HostMiddleware, hosts=hosts, shapes=shapes, on_rejection=chat_service.record_rejection)


_RESUME_RESPONSES: dict[int | str, dict[str, Any]] = {
    **success_response("text/event-stream"),
    204: {"description": "No events are left"},
}
router = APIRouter(route_class=ShapedRoute, responses=OWN_SHAPE.openapi_responses())
open_router = APIRouter(route_class=ShapedRoute, responses=OWN_SHAPE.openapi_responses())
own_catch_all, openai_catch_all = APIRouter(route_class=ShapedRoute), APIRouter(route_class=OpenAIRoute)


def _get_chat_service(request: Request) -> ChatService:
    chat_service: ChatService = request.app.state.chat_service
    return chat_service


@router.post("/api/chat", response_class=Response, responses=success_response("text/event-stream", "application/json"))
async def chat(body: ChatRequestBody, request: Request) -> Response:
    """Stream the answer as Server-Sent Events, or return it as one JSON object with `"stream": false`."""
    chat_service = _get_chat_service(request)
    wire = "sse" if body.stream else "json"
    stream = await chat_service.start_answer(
        request.state.caller,
        body.provider_list(),
        body.to_chat_request(request.headers.get("x-client-request-id")),
        body.strategy,
        wire=wire,
    )
    if body.stream:
        return SSEResponse(await chat_service.first_reader(stream, body.resume), stream.id)
    text, _ = await collect_answer(stream, request.receive)
    receipt = stream.receipt()
    fields = {
        "stream_id": stream.id,
        "content": text,
        "finish_reason": receipt.finish_reason,
        **receipt_fields(receipt),
    }
    if receipt.error is not None:
        return JSONResponse({**error_fields(receipt.error), **fields}, 502)
    return JSONResponse({**fields, "outcome": receipt.outcome})


@router.post("/api/chat/stream", response_class=Response, responses=success_response("text/event-stream"))
async def chat_stream(body: ChatRequestBody, request: Request) -> Response:
    """Stream the answer as Server-Sent Events, whatever the value of `stream`."""
    return await chat(body.model_copy(update={"stream": True}), request)


@router.get("/api/chat/stream/{stream_id}", response_class=Response, responses=_RESUME_RESPONSES)
async def resume(stream_id: str, request: Request, last_event_id: str | None = None) -> Response:
    """Continue a stream that was requested with `"resume": true` after `Last-Event-ID`; return 204 at its end."""
    try:
        after = parse_event_id(stream_id, request.headers.get("last-event-id") or last_event_id)
    except ValueError as fault:
        raise UsageError(str(fault)) from None
    reader = await _get_chat_service(request).resume_reader(stream_id, request.state.caller, after)
    if reader.ended:
        await reader.aclose()
        return Response(status_code=204)
    return SSEResponse(reader, stream_id)


@router.delete("/api/chat/stream/{stream_id}")
async def cancel(stream_id: str, request: Request) -> dict[str, Any]:
    """Stop a stream, and return its receipt: characters delivered, cost, and how long the provider took to stop."""
    return await _get_chat_service(request).cancel(stream_id, request.state.caller)


@router.websocket("/api/chat/ws")
async def websocket(socket: WebSocket) -> None:
    """Answer chat requests one after another on one WebSocket."""
    await WebSocketSession(socket, socket.app.state.chat_service).serve()


@open_router.head("/healthz", include_in_schema=False)
@open_router.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    """Return the version, the state of the local model with its error, and the number of answers under way."""
    chat_service = _get_chat_service(request)
    local = request.app.state.providers.local_model.state
    return {
        "status": "ok",
        "version": VERSION,
        "local_model": local.kind,
        "local_model_error": local.error,
        "streams_open": len(chat_service.streams),
    }


@open_router.head("/metrics", include_in_schema=False)
@open_router.get("/metrics", response_class=Response, responses=success_response("text/plain"))
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    return Response(
        _get_chat_service(request).metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@own_catch_all.api_route("/api/{path:path}", methods=list(_HTTP_METHODS), include_in_schema=False)
@openai_catch_all.api_route("/v1/{path:path}", methods=list(_HTTP_METHODS), include_in_schema=False)
async def unknown_path(request: Request) -> Response:
    """Return a JSON error for an unknown path or method under `/api` and `/v1`.

    Without this route the mounted page would answer these requests with HTML.
    """
    path = request.url.path
    if route_path(request.scope) == "/api/chat/ws":
        raise HTTPException(
            426,
            f"{path}: requires a WebSocket connection (send an Upgrade header)",
            {"Upgrade": "websocket", "Connection": "Upgrade"},
        )
    if methods := _allowed_methods(request):
        raise HTTPException(
            405,
            f"{path}: {request.method} is not supported (use {' or '.join(methods)})",
            {"Allow": ", ".join(methods)},
        )
    raise HTTPException(404, f"{path}: not found (see {request.scope.get('root_path', '')}/openapi.json)")


GUARDED_ROUTERS = (router, openai.routes, own_catch_all, openai_catch_all)
"""The routes that only admitted callers reach, in the order in which they are tried; the others are open to all."""


def _allowed_methods(request: Request) -> list[str]:
    """Return the HTTP methods that the routes accept at the requested path."""
    known = [route for route in (*router.routes, *openai.routes.routes) if isinstance(route, APIRoute)]
    partly = [route for route in known if route.matches(request.scope)[0] is Match.PARTIAL]
    return [method for method in _HTTP_METHODS if any(method in (route.methods or ()) for route in partly)]
