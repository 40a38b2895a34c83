"""The service: its routes, and what every error looks like."""

import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from providers import Providers
from server.body import ChatBody
from server.frames import Framer, bill, error_fields
from server.sse import EventStream, closed_when_left
from streaming import strategies
from streaming.clock import monotonic
from streaming.errors import UsageError
from streaming.events import TextDelta
from streaming.pipeline import Answer, answer

VERSION = "0.1.0"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create(providers: Providers) -> FastAPI:
    """Build the service over `providers`, which it warms up at its start and closes at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        providers.warm()
        try:
            yield
        finally:
            await providers.aclose()

    app = FastAPI(title="Streamgauge", version=VERSION, lifespan=lifespan)
    app.state.providers = providers
    app.include_router(routes)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UsageError, _unusable)
    app.add_exception_handler(HTTPException, _refused)
    return app


routes = APIRouter()


@routes.post("/api/chat", response_class=Response)
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer as Server-Sent Events, or as one JSON object with `"stream": false`."""
    stream_id = secrets.token_urlsafe(16)
    asked = _ask(request, body)
    if not body.stream:
        return await _whole(asked, request, stream_id)
    return EventStream(asked, Framer(stream_id, monotonic()), monotonic)


@routes.post("/api/chat/stream", response_class=Response)
async def chat_stream(body: ChatBody, request: Request) -> Response:
    """Answer as Server-Sent Events, whatever `stream` says."""
    return await chat(body.model_copy(update={"stream": True}), request)


@routes.api_route("/api/{path:path}", methods=list(_METHODS), include_in_schema=False)
async def elsewhere(path: str) -> Response:
    """Refuse what is not offered in this service's own words; the page, mounted behind, would answer otherwise."""
    if path in ("chat", "chat/stream"):
        raise HTTPException(405, "ask with POST", {"Allow": "POST"})
    raise HTTPException(404, f"there is no /api/{path}")


@routes.head("/healthz", include_in_schema=False)
@routes.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    """Say that the service lives, and how far the local model is."""
    providers: Providers = request.app.state.providers
    return {"status": "ok", "version": VERSION, "local_model": providers.local.state.kind}


def _ask(request: Request, body: ChatBody) -> Answer:
    providers: Providers = request.app.state.providers
    strategy = strategies.parse(body.strategy).make()
    session = providers.session(_allowed(body.providers()), clock=monotonic)
    # Whoever knows a stream's id may be let into it: the provider is told another one.
    return answer(body.request(uuid.uuid4().hex), session, strategy, clock=monotonic, rates=providers.rates)


def _allowed(names: list[str]) -> list[str]:
    """Refuse what opens a file of this machine for whoever can reach the service. Raises UsageError."""
    if any(name.startswith("replay") for name in names):
        raise UsageError("replay plays files of the service's own machine: it is not offered over the network")
    return names


async def _whole(asked: Answer, request: Request, stream_id: str) -> Response:
    async with aclosing(asked), closed_when_left(request.receive, asked):
        content = "".join([event.text async for event in asked if isinstance(event, TextDelta)])
    receipt = asked.receipt()
    fields = {"stream_id": stream_id, "content": content, "finish_reason": receipt.finish_reason}
    if receipt.error is not None:
        return JSONResponse({**error_fields(receipt.error), **fields, **bill(receipt)}, status_code=502)
    return JSONResponse({**fields, **bill(receipt)})


def refusal(status: int, kind: str, message: str) -> JSONResponse:
    """Give an error response in the shape that all of them have."""
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if "json" not in request.headers.get("content-type", ""):
        return refusal(400, "bad_request", "the body must be JSON, sent with content-type: application/json")
    found = [f"{_place(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()[:3]]
    return refusal(400, "bad_request", "; ".join(found))


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc if part != "body") or "the body"


async def _unusable(request: Request, error: Exception) -> JSONResponse:
    return refusal(400, "bad_request", str(error))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    response = refusal(error.status_code, kind, str(error.detail))
    response.headers.update(error.headers or {})
    return response
