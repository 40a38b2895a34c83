"""What the OpenAI and the Anthropic SDK share: both stand on httpx2 and name their calls and errors alike."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2

from providers.faces import body_of
from providers.refusals import refusal
from providers.transport import Prepared, caught, prepared
from providers.upstream import Opened, Service, transport_error
from providers.wire import Decoder
from streaming.messages import ChatRequest

NO_KEY = "no-key"
"""What an SDK is given where a server asks for no key: it insists on one."""


def http_client(service: Service) -> httpx2.AsyncClient:
    """Give the HTTP client that an SDK is told to use."""
    return httpx2.AsyncClient(**service.http_options(httpx2))


@asynccontextmanager
async def opened(
    call: Callable[[], AbstractAsyncContextManager[Any]], sdk: Any, service: Service, model: str
) -> AsyncIterator[Opened]:
    """Enter an SDK's `with_streaming_response` call and leave it closed; its errors come out as StreamError.

    The call is made on entering: a coroutine that is never awaited would be left of one that is not.
    """
    answered = False
    try:
        async with call() as response:
            answered = True
            yield Opened(response.headers.get("content-type", ""), body_of(response.http_response))
    except sdk.APIStatusError as error:
        found = error.response
        raise refusal(service.names, model, found.status_code, found.headers, found.text) from None
    except sdk.APIConnectionError as error:
        raise transport_error(error.__cause__ or error, service, answered=answered) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise transport_error(error, service, answered=answered) from None


async def unsent(
    client: Any,
    opening: Callable[[ChatRequest], AbstractAsyncContextManager[Opened]],
    service: Service,
    request: ChatRequest,
    decoder: Callable[[bool], Decoder],
) -> Prepared:
    """Give what `opening` would send by the SDK's `client`, unsent. Raises StreamError, UsageError."""
    found = await caught(client._client, lambda request_id: opening(replace(request, request_id=request_id)))
    return prepared(found, service, httpx2, request, decoder)
