"""Code shared by the adapters of the OpenAI and Anthropic SDKs, which both use httpx2 and the same names for errors."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx2

from providers.decoding.decoder import StreamDecoder
from providers.http.client import ServiceConfig, StreamingResponse, map_transport_error
from providers.http.errors import error_from_response
from providers.http.transport import raw_body
from providers.models.fitting import Fitted
from providers.timed.prepared_request import REQUEST_ID_HEADER, PreparedRequest, capture_request, serialize_request
from streaming.messages import ChatRequest

PLACEHOLDER_KEY = "no-key"
"""The API key for servers that need none, because the SDKs require a value."""
_RAW_STREAM_OPTIONS = {"cast_to": httpx2.Response, "stream": True}
"""Options that make an SDK return the HTTP response itself, with its body unread."""


def http_client(service: ServiceConfig) -> httpx2.AsyncClient:
    """Return the HTTP client to pass to an SDK."""
    return httpx2.AsyncClient(**service.client_kwargs(httpx2))


def get_call(client: Any, path: str, **params: Any) -> Callable[[], Awaitable[httpx2.Response]]:
    """Return a function that sends a GET request for `path` with an SDK's client."""
    return partial(client.get, path, options={"params": params}, **_RAW_STREAM_OPTIONS)


def post_call(
    client: Any, path: str, body: dict[str, Any], request: ChatRequest
) -> Callable[[], Awaitable[httpx2.Response]]:
    """Return a function that posts `body` to `path` with an SDK's client.

    It uses the generic method that the SDKs document for endpoints without a method of their own: the specific methods
    first check the body against every possible type, which is a tenth of the CPU time up to an answer's first event.
    """
    headers = {} if request.request_id is None else {REQUEST_ID_HEADER: request.request_id}
    return partial(client.post, path, body=body, options={"headers": headers}, **_RAW_STREAM_OPTIONS)


@asynccontextmanager
async def open_response(
    call: Callable[[], Awaitable[httpx2.Response]], sdk: Any, service: ServiceConfig, model: str
) -> AsyncIterator[StreamingResponse]:
    """Make an SDK's call, yield its response and close it afterwards. Raises StreamError for the SDK's errors.

    The call is made on entry, so that a context which is never entered leaves no coroutine unawaited.
    """
    answered = False
    try:
        response = await call()
        answered = True
        async with aclosing(response):
            yield StreamingResponse(response.headers.get("content-type", ""), raw_body(response))
    except sdk.APIStatusError as error:
        result = error.response
        raise error_from_response(service.names, model, result.status_code, result.headers, result.text) from None
    except sdk.APIConnectionError as error:
        raise map_transport_error(error.__cause__ or error, service, answered=answered) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise map_transport_error(error, service, answered=answered) from None


async def prepare_request(
    client: Any,
    opening: Callable[[Fitted], AbstractAsyncContextManager[StreamingResponse]],
    service: ServiceConfig,
    fitted: Fitted,
    decoder: Callable[[bool], StreamDecoder],
) -> PreparedRequest:
    """Return the request that `opening` would send with the SDK's `client`, without sending it.

    Raises StreamError or UsageError.
    """
    request = fitted.request
    captured_request = await capture_request(
        client._client, lambda request_id: opening(replace(fitted, request=replace(request, request_id=request_id)))
    )
    return serialize_request(captured_request, service, httpx2, request, decoder)
