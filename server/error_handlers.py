"""Handlers that turn every exception of a request into a JSON error, in the shape of its route."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from guard import RejectionError
from server.chat_service import UnknownProviderError
from server.error_shapes import UNKNOWN_PROVIDER, ErrorReport, RouteErrorShapes
from server.schemas import error_location, validation_rejection
from server.streams.active import INTERNAL_ERROR
from server.streams.buffer import StreamNotFoundError, StreamStoreFullError, StreamUnavailableError
from streaming.errors import UsageError
from streaming.http.root_path import route_path

_KIND_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 426: "upgrade_required"}
_NOT_JSON_TEXT = "the body: not JSON in UTF-8 (send JSON with content-type: application/json)"
_LONG_NUMBER_TEXT = "the body: a number has thousands of digits (send a shorter one)"


def describe_error(fault: BaseException) -> ErrorReport:
    """Return the report of an exception, the same for HTTP and WebSocket. Its last row is for every exception."""
    match fault:
        case RejectionError():
            return ErrorReport.from_rejection(fault)
        case UnknownProviderError():
            return ErrorReport(400, UNKNOWN_PROVIDER, str(fault), param="model")
        case UsageError():
            return ErrorReport(400, "bad_request", str(fault))
        case StreamNotFoundError():
            return ErrorReport(404, "not_found", str(fault))
        case StreamStoreFullError():
            return ErrorReport(503, "unavailable", str(fault))
        case StreamUnavailableError():
            return ErrorReport(503, "unavailable", str(fault), retry_after_s=1.0)
    return ErrorReport(500, INTERNAL_ERROR.kind, INTERNAL_ERROR.message)


class ErrorHandlers:
    """The exception handlers of the application.

    `record_rejection` is called with the rule of a request whose body cannot be parsed; the chat service and the
    middleware record what they reject themselves.
    """

    def __init__(self, shapes: RouteErrorShapes, record_rejection: Callable[[str], None]) -> None:
        self._shapes = shapes
        self._record_rejection = record_rejection

    def table(self) -> Mapping[type[Exception], Any]:
        """Return the handlers by exception. The one for Exception runs outside of all middleware."""
        return {
            RequestValidationError: self._handle_validation_error,
            HTTPException: self._handle_http_error,
            RejectionError: self._handle_error,
            UsageError: self._handle_error,
            StreamNotFoundError: self._handle_error,
            StreamStoreFullError: self._handle_error,
            StreamUnavailableError: self._handle_error,
            Exception: self._handle_error,
        }

    async def _handle_error(self, request: Request, fault: Exception) -> Response:
        return self._respond(request, describe_error(fault))

    async def _handle_validation_error(self, request: Request, fault: Exception) -> Response:
        assert isinstance(fault, RequestValidationError)
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            return self._reject_body(request, RejectionError("body.json", "invalid", _NOT_JSON_TEXT))
        return self._reject_body(request, validation_rejection(fault.errors()), error_location(fault.errors()[0]))

    async def _handle_http_error(self, request: Request, fault: Exception) -> Response:
        assert isinstance(fault, HTTPException)
        if fault.status_code == 400:  # raised by the framework for bytes that its JSON parser cannot read
            # Python's parser reads JSON of any length, but no number of thousands of digits.
            is_long_number = "integer string conversion" in str(fault.__cause__)
            text = _LONG_NUMBER_TEXT if is_long_number else _NOT_JSON_TEXT
            return self._reject_body(request, RejectionError("body.json", "invalid", text))
        kind = _KIND_BY_STATUS.get(fault.status_code, "bad_request")
        response = self._respond(request, ErrorReport(fault.status_code, kind, str(fault.detail)))
        response.headers.update(fault.headers or {})
        return response

    def _reject_body(self, request: Request, rejection: RejectionError, param: str | None = None) -> Response:
        self._record_rejection(rejection.rule)
        return self._respond(request, ErrorReport.from_rejection(rejection, param))

    def _respond(self, request: Request, report: ErrorReport) -> Response:
        return self._shapes.find(route_path(request.scope)).response(report)
