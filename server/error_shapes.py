"""The shapes of errors: how each API of this service writes an error, and which route belongs to which API.

A route declares its shape by its class, such as `OpenAIRoute`. Errors from before the routing find the shape by the
path of the request, in the same routes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from guard import RejectionError
from streaming.http.root_path import remove_root_path

UNKNOWN_PROVIDER = "unknown_provider"
"""The kind of error for a name that is no model here, for which each API has its own status and word."""
_NO_NAMES: Mapping[str, tuple[int, str]] = {}


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error before it is written in a shape.

    `rule` names the rule that rejected the request, `param` the field that is not valid; None for other errors.
    """

    status: int
    kind: str
    message: str
    rule: str | None = None
    retry_after_s: float | None = None
    param: str | None = None

    @classmethod
    def from_rejection(cls, rejection: RejectionError, param: str | None = None) -> "ErrorReport":
        """Return the report of a rejection."""
        if param is None and rejection.kind in ("model_not_found", "unpriced"):
            param = "model"
        return cls(rejection.status, rejection.kind, rejection.message, rejection.rule, rejection.retry_after_s, param)


class ErrorShape(ABC):
    """The way in which one API writes errors. `names` has its own status and word for a kind of error."""

    model: ClassVar[type[BaseModel]]
    names: ClassVar[Mapping[str, tuple[int, str]]] = _NO_NAMES

    @abstractmethod
    def fields(self, status: int, kind: str, report: ErrorReport) -> dict[str, Any]:
        """Return the JSON fields of an error with this status and kind."""

    def body(self, report: ErrorReport) -> dict[str, Any]:
        """Return the JSON fields of an error."""
        status, kind = self.names.get(report.kind, (report.status, report.kind))
        return self.fields(status, kind, report)

    def response(self, report: ErrorReport, more: Mapping[str, Any] | None = None) -> JSONResponse:
        """Return the response for an error; `more` fields stand beside the error."""
        status, _ = self.names.get(report.kind, (report.status, report.kind))
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if report.rule == "body.time":
            headers["Connection"] = "close"  # a client this slow would otherwise hold the connection indefinitely
        if report.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(report.retry_after_s)))
        return JSONResponse({**self.body(report), **(more or {})}, status, headers)

    def openapi_responses(self) -> dict[int | str, dict[str, Any]]:
        """Return the error responses for the OpenAPI description."""
        return {
            "4XX": {"model": self.model, "description": "The request is rejected"},
            "5XX": {"model": self.model, "description": "The answer failed, or the service is not available"},
        }


class ErrorDetail(BaseModel):
    """The details of an error; `rule` names the guard's rule that rejected the request, if one did."""

    type: str
    message: str
    rule: str | None
    retry_after_s: float | None


class ErrorResponse(BaseModel):
    """The body of every rejection and error of this service's own API."""

    error: ErrorDetail


class OwnErrorShape(ErrorShape):
    """The shape of this service's own API, over HTTP and in the frames of a WebSocket."""

    model = ErrorResponse
    names: ClassVar[Mapping[str, tuple[int, str]]] = {UNKNOWN_PROVIDER: (400, "bad_request")}

    def fields(self, status: int, kind: str, report: ErrorReport) -> dict[str, Any]:
        error = {"type": kind, "message": report.message, "rule": report.rule, "retry_after_s": report.retry_after_s}
        return {"error": error}


class OpenAIErrorDetail(BaseModel):
    """The details of an error in OpenAI's format; `code` is this service's own kind of error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """The body of every rejection and error of the OpenAI API."""

    error: OpenAIErrorDetail


class OpenAIErrorShape(ErrorShape):
    """OpenAI's shape; `code` is this service's own kind of error. Rejections have their rule as an extension."""

    model = OpenAIErrorResponse
    names: ClassVar[Mapping[str, tuple[int, str]]] = {UNKNOWN_PROVIDER: (404, "model_not_found")}
    _types: ClassVar[Mapping[int, str]] = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }

    def fields(self, status: int, kind: str, report: ErrorReport) -> dict[str, Any]:
        named = self._types.get(status, "invalid_request_error" if status < 500 else "api_error")
        error: dict[str, Any] = {"message": report.message, "type": named, "param": report.param, "code": kind}
        if report.rule is not None:
            error |= {"rule": report.rule, "retry_after_s": report.retry_after_s}
        return {"error": error}


OWN_SHAPE, OPENAI_SHAPE = OwnErrorShape(), OpenAIErrorShape()


class ShapedRoute(APIRoute):
    """A route that declares the shape of its errors; this one has the service's own."""

    error_shape: ClassVar[ErrorShape] = OWN_SHAPE


class OpenAIRoute(ShapedRoute):
    """A route of the OpenAI API."""

    error_shape: ClassVar[ErrorShape] = OPENAI_SHAPE


class RouteErrorShapes:
    """The error shapes of the routes of these routers, by path; the first route that matches counts."""

    def __init__(self, routers: Iterable[APIRouter], root_path: str = "") -> None:
        self._root_path = root_path
        self._routes = [route for router in routers for route in router.routes if isinstance(route, ShapedRoute)]

    def find(self, path: str) -> ErrorShape:
        """Return the shape of the route at a path, whatever the method; the service's own where there is none."""
        return next((route.error_shape for route in self._routes if route.path_regex.match(path)), OWN_SHAPE)

    def find_by_target(self, target: bytes) -> ErrorShape:
        """Return the shape for the target of a request line, which may be incomplete or not valid."""
        path = unquote(target.partition(b"?")[0].decode("latin-1"))
        return self.find(remove_root_path(path, self._root_path))
