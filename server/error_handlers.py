"""Handlers that turn every exception of a request into a JSON error, in the format of the transport."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from guard import RejectionError
from server.chat_service import UnknownProviderError
from server.schemas import error_location, validation_rejection
from server.streams.buffer import StreamNotFoundError, StreamStoreFullError
from streaming.errors import UsageError

_OPENAI_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(kind: str, message: str, rule: str | None = None, retry_after_s: float | None = None) -> dict[str, Any]:
    """Return the JSON fields of an error in this service's own format."""
    return {"error": {"type": kind, "message": message, "rule": rule, "retry_after_s": retry_after_s}}


def openai_error_body(status: int, kind: str, message: str, param: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the JSON fields of an error in OpenAI's format; `code` is this service's own kind of error."""
    named = _OPENAI_TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"error": {"message": message, "type": named, "param": param, "code": kind, **more}}


def rejection_response(rejection: RejectionError, *, openai: bool = False, param: str | None = None) -> JSONResponse:
    """Return the response to a rejected request; `param` names the invalid field in OpenAI's format."""
    fields = error_body(rejection.kind, rejection.message, rejection.rule, rejection.retry_after_s)
    if openai:
        more = {"rule": rejection.rule, "retry_after_s": rejection.retry_after_s}
        fields = openai_error_body(rejection.status, rejection.kind, rejection.message, param, **more)
    headers = {"WWW-Authenticate": "Bearer"} if rejection.status == 401 else {}
    if rejection.rule == "body.time":
        headers["Connection"] = "close"  # a client this slow would otherwise hold the connection indefinitely
    if rejection.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(rejection.retry_after_s)))
    return JSONResponse(fields, rejection.status, headers)


_KIND_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 426: "upgrade_required"}
_NOT_JSON_TEXT = "the body: not JSON in UTF-8 (send JSON with content-type: application/json)"


class ErrorDetail(BaseModel):
    """The details of an error; `rule` names the guard's rule that rejected the request, if one did."""

    type: str
    message: str
    rule: str | None
    retry_after_s: float | None


class ErrorResponse(BaseModel):
    """The body of every rejection and error of this service's own API."""

    error: ErrorDetail


class OpenAIErrorDetail(BaseModel):
    """The details of an error in OpenAI's format; `code` is this service's own kind of error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """The body of every rejection and error of the OpenAI API."""

    error: OpenAIErrorDetail


OpenAPIResponses = dict[int | str, dict[str, Any]]


def error_responses(model: type[BaseModel]) -> OpenAPIResponses:
    """Return the error responses for the OpenAPI description."""
    return {
        "4XX": {"model": model, "description": "The request is rejected"},
        "5XX": {"model": model, "description": "The answer failed, or the service is not available"},
    }


def success_response(*kinds: str) -> OpenAPIResponses:
    """Return the successful response for the OpenAPI description, with its content types."""
    return {200: {"description": "The answer", "content": {kind: {} for kind in kinds}}}


def _is_openai_path(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


def _error_response(request: Request, status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse(
        openai_error_body(status, kind, message) if _is_openai_path(request) else error_body(kind, message), status
    )


def _reject_body(request: Request, rejection: RejectionError, param: str | None = None) -> JSONResponse:
    """Record the rejection of a body that cannot be parsed, and return the response."""
    request.app.state.chat_service.record_rejection(rejection.rule)
    return rejection_response(rejection, openai=_is_openai_path(request), param=param)


async def _handle_validation_error(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, RequestValidationError)
    if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
        return _reject_body(request, RejectionError("body.json", "invalid", _NOT_JSON_TEXT))
    return _reject_body(request, validation_rejection(fault.errors()), error_location(fault.errors()[0]))


async def _handle_usage_error(request: Request, fault: Exception) -> JSONResponse:
    return _error_response(request, 400, "bad_request", str(fault))


async def _handle_unknown_provider(request: Request, fault: Exception) -> JSONResponse:
    if not _is_openai_path(request):
        return await _handle_usage_error(request, fault)
    return JSONResponse(openai_error_body(404, "model_not_found", str(fault), "model"), 404)


async def _handle_rejection(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, RejectionError)  # the chat service has recorded it
    param = "model" if fault.kind in ("model_not_found", "unpriced") else None
    return rejection_response(fault, openai=_is_openai_path(request), param=param)


async def _handle_stream_gone(request: Request, fault: Exception) -> JSONResponse:
    return _error_response(request, 404, "not_found", str(fault))


async def _handle_store_full(request: Request, fault: Exception) -> JSONResponse:
    return _error_response(request, 503, "unavailable", str(fault))


async def _handle_http_error(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    if fault.status_code == 400:  # raised by the framework for bytes that its JSON parser cannot read
        return _reject_body(request, RejectionError("body.json", "invalid", _NOT_JSON_TEXT))
    response = _error_response(
        request, fault.status_code, _KIND_BY_STATUS.get(fault.status_code, "bad_request"), str(fault.detail)
    )
    response.headers.update(fault.headers or {})
    return response


EXCEPTION_HANDLERS: Mapping[type[Exception], Any] = {
    RequestValidationError: _handle_validation_error,
    UnknownProviderError: _handle_unknown_provider,
    UsageError: _handle_usage_error,
    RejectionError: _handle_rejection,
    StreamNotFoundError: _handle_stream_gone,
    StreamStoreFullError: _handle_store_full,
    HTTPException: _handle_http_error,
}
