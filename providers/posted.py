"""A question in JSON as bytes for stamped sockets, for wires that no SDK speaks."""

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from providers.transport import Prepared, prepared
from providers.upstream import HEADERS, Service
from providers.wire import Decoder
from streaming.messages import ChatRequest


def posted(
    service: Service, path: str, body: Mapping[str, Any], request: ChatRequest, decoder: Callable[[bool], Decoder]
) -> Prepared:
    """Give a POST of `body` to a path below the service's address, unsent. Raises StreamError, UsageError."""
    headers = {**HEADERS, "accept": "text/event-stream"}
    if service.key is not None:
        headers["authorization"] = f"Bearer {service.key}"
    found = httpx2.Request("POST", service.names.base_url + path, headers=headers, json=dict(body))
    return prepared(found, service, httpx2, request, decoder)
