"""What a request is told that cannot be answered: every exception as JSON, in the shape of its wire."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from guard import Refusal
from server.body import place, unfit
from server.door import NoProvider
from server.kept import Full, Gone
from server.refusals import error, openai_error, refused
from streaming.errors import UsageError

_KINDS = {404: "not_found", 405: "method_not_allowed", 426: "upgrade_required"}
_NOT_JSON = "the body must be JSON in UTF-8, sent with content-type: application/json"


class Fault(BaseModel):
    """What is wrong; `rule` is the guard's that refused."""

    type: str
    message: str
    rule: str | None
    retry_after_s: float | None


class Refused(BaseModel):
    """Every refusal and error of this service's own wires."""

    error: Fault


class OpenAIFault(BaseModel):
    """What is wrong, in OpenAI's words; `code` is this service's own."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIRefused(BaseModel):
    """Every refusal and error of OpenAI's wire."""

    error: OpenAIFault


Responses = dict[int | str, dict[str, Any]]


def described(model: type[BaseModel]) -> Responses:
    """Give for the description of the interface what its errors look like."""
    return {
        "4XX": {"model": model, "description": "The request is refused"},
        "5XX": {"model": model, "description": "The answer broke, or the service cannot answer now"},
    }


def answering(*kinds: str) -> Responses:
    """Give for the description of the interface which types of content a success may have."""
    return {200: {"description": "The answer", "content": {kind: {} for kind in kinds}}}


def _openai(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


def _told(request: Request, status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse(openai_error(status, kind, message) if _openai(request) else error(kind, message), status)


def _refused(request: Request, refusal: Refusal, param: str | None = None) -> JSONResponse:
    request.app.state.door.metrics.count_refusal(refusal.rule)
    return refused(refusal, openai=_openai(request), param=param)


async def _invalid(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, RequestValidationError)
    if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
        return _refused(request, Refusal("body.json", "invalid", _NOT_JSON))
    return _refused(request, unfit(fault.errors()), place(fault.errors()[0]))


async def _unusable(request: Request, fault: Exception) -> JSONResponse:
    return _told(request, 400, "bad_request", str(fault))


async def _no_provider(request: Request, fault: Exception) -> JSONResponse:
    if not _openai(request):
        return await _unusable(request, fault)
    return JSONResponse(openai_error(404, "model_not_found", str(fault), "model"), 404)


async def _guarded(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, Refusal)
    return _refused(request, fault, "model" if fault.kind in ("model_not_found", "unpriced") else None)


async def _gone(request: Request, fault: Exception) -> JSONResponse:
    return _told(request, 404, "not_found", str(fault))


async def _full(request: Request, fault: Exception) -> JSONResponse:
    return _told(request, 503, "unavailable", str(fault))


async def _http(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    if fault.status_code == 400:  # the framework's, for bytes that its parser breaks at
        return _refused(request, Refusal("body.json", "invalid", _NOT_JSON))
    response = _told(request, fault.status_code, _KINDS.get(fault.status_code, "bad_request"), str(fault.detail))
    response.headers.update(fault.headers or {})
    return response


FAULTS: Mapping[type[Exception], Any] = {
    RequestValidationError: _invalid,
    NoProvider: _no_provider,
    UsageError: _unusable,
    Refusal: _guarded,
    Gone: _gone,
    Full: _full,
    HTTPException: _http,
}
