"""What the OpenAI and the Anthropic SDK share: both stand on httpx2 and name their calls and errors alike."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx2

from providers.faces import body_of
from providers.fitting import Fitted
from providers.refusals import refusal
from providers.transport import ID_HEADER, Prepared, caught, prepared
from providers.upstream import Opened, Service, transport_error
from providers.wire import Decoder
from streaming.messages import ChatRequest

NO_KEY = "no-key"
"""What an SDK is given where a server asks for no key: it insists on one."""
_AS_IT_COMES = {"cast_to": httpx2.Response, "stream": True}
"""Has an SDK give the response itself, with its body unread."""


def http_client(service: Service) -> httpx2.AsyncClient:
    """Give the HTTP client that an SDK is told to use."""
    return httpx2.AsyncClient(**service.http_options(httpx2))


def getting(client: Any, path: str, **params: Any) -> Callable[[], Awaitable[httpx2.Response]]:
    """Give the call by which an SDK's client asks for `path`."""
    return partial(client.get, path, options={"params": params}, **_AS_IT_COMES)


def posting(
    client: Any, path: str, body: dict[str, Any], request: ChatRequest
) -> Callable[[], Awaitable[httpx2.Response]]:
    """Give the call by which an SDK's client posts `body`.

    An SDK's method for an endpoint first looks through every type that a body of it could have, which is a tenth of
    all that an answer's beginning costs; this is the one that SDKs document for endpoints without such a method.
    """
    headers = {} if request.request_id is None else {ID_HEADER: request.request_id}
    return partial(client.post, path, body=body, options={"headers": headers}, **_AS_IT_COMES)


@asynccontextmanager
async def opened(
    call: Callable[[], Awaitable[httpx2.Response]], sdk: Any, service: Service, model: str
) -> AsyncIterator[Opened]:
    """Make an SDK's call and leave its response closed; its errors come out as StreamError.

    The call is made on entering: of one that is not entered nothing is left, no coroutine that nobody awaits.
    """
    answered = False
    try:
        response = await call()
        answered = True
        async with aclosing(response):
            yield Opened(response.headers.get("content-type", ""), body_of(response))
    except sdk.APIStatusError as error:
        found = error.response
        raise refusal(service.names, model, found.status_code, found.headers, found.text) from None
    except sdk.APIConnectionError as error:
        raise transport_error(error.__cause__ or error, service, answered=answered) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise transport_error(error, service, answered=answered) from None


async def unsent(
    client: Any,
    opening: Callable[[Fitted], AbstractAsyncContextManager[Opened]],
    service: Service,
    fitted: Fitted,
    decoder: Callable[[bool], Decoder],
) -> Prepared:
    """Give what `opening` would send by the SDK's `client`, unsent. Raises StreamError, UsageError."""
    request = fitted.request
    found = await caught(
        client._client, lambda request_id: opening(replace(fitted, request=replace(request, request_id=request_id)))
    )
    return prepared(found, service, httpx2, request, decoder)
