"""What every refusal and error looks like, on each wire."""

import math
from typing import Any

from starlette.responses import JSONResponse

from guard import Refusal

_KINDS_OF_OPENAI = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error(kind: str, message: str, rule: str | None = None, retry_after_s: float | None = None) -> dict[str, Any]:
    """Give the JSON of an error."""
    return {"error": {"type": kind, "message": message, "rule": rule, "retry_after_s": retry_after_s}}


def openai_error(status: int, kind: str, message: str, param: str | None = None, **more: Any) -> dict[str, Any]:
    """Give the JSON of an error in OpenAI's shape: `code` is this service's own word for it."""
    named = _KINDS_OF_OPENAI.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"error": {"message": message, "type": named, "param": param, "code": kind, **more}}


def refused(refusal: Refusal, *, openai: bool = False, param: str | None = None) -> JSONResponse:
    """Give the response to what is refused; `param` is the field that OpenAI's clients are told."""
    fields = error(refusal.kind, refusal.message, refusal.rule, refusal.retry_after_s)
    if openai:
        more = {"rule": refusal.rule, "retry_after_s": refusal.retry_after_s}
        fields = openai_error(refusal.status, refusal.kind, refusal.message, param, **more)
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    if refusal.rule == "body.time":
        headers["Connection"] = "close"  # whoever sends that slowly would keep the connection for ever
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    return JSONResponse(fields, refusal.status, headers)
