"""What the OpenAI and the Anthropic SDK share: both stand on httpx2 and name their calls and errors alike."""

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
"""What an SDK is given where a server asks for no key: it insists on one."""
_RAW_STREAM_OPTIONS = {"cast_to": httpx2.Response, "stream": True}
"""Has an SDK give the response itself, with its body unread."""


def http_client(service: ServiceConfig) -> httpx2.AsyncClient:
    """Give the HTTP client that an SDK is told to use."""
    return httpx2.AsyncClient(**service.client_kwargs(httpx2))


def get_call(client: Any, path: str, **params: Any) -> Callable[[], Awaitable[httpx2.Response]]:
    """Give the call by which an SDK's client asks for `path`."""
    return partial(client.get, path, options={"params": params}, **_RAW_STREAM_OPTIONS)


def post_call(
    client: Any, path: str, body: dict[str, Any], request: ChatRequest
) -> Callable[[], Awaitable[httpx2.Response]]:
    """Give the call by which an SDK's client posts `body`.

    An SDK's method for an endpoint first looks through every type that a body of it could have, which is a tenth of
    all that an answer's beginning costs; this is the one that SDKs document for endpoints without such a method.
    """
    headers = {} if request.request_id is None else {REQUEST_ID_HEADER: request.request_id}
    return partial(client.post, path, body=body, options={"headers": headers}, **_RAW_STREAM_OPTIONS)


@asynccontextmanager
async def open_response(
    call: Callable[[], Awaitable[httpx2.Response]], sdk: Any, service: ServiceConfig, model: str
) -> AsyncIterator[StreamingResponse]:
    """Make an SDK's call and leave its response closed; its errors come out as StreamError.

    The call is made on entering: of one that is not entered nothing is left, no coroutine that nobody awaits.
    """
    answered = False
    try:
        response = await call()
        answered = True
        async with aclosing(response):
            yield StreamingResponse(response.headers.get("content-type", ""), raw_body(response))
    except sdk.APIStatusError as error:
        found = error.response
        raise error_from_response(service.names, model, found.status_code, found.headers, found.text) from None
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
    """Give what `opening` would send by the SDK's `client`, unsent. Raises StreamError, UsageError."""
    request = fitted.request
    found = await capture_request(
        client._client, lambda request_id: opening(replace(fitted, request=replace(request, request_id=request_id)))
    )
    return serialize_request(found, service, httpx2, request, decoder)
