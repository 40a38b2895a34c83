"""What the dialects of the OpenAI and Anthropic SDKs share: both use httpx2 and the same names for errors.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import httpx2

from providers.dialects.service_adapter import ServiceAdapter
from providers.http.client import ServiceConfig, StreamingResponse, find_request_id
from providers.http.errors import error_from_response
from providers.http.transport import REQUEST_ID_HEADER, CapturingTransport, raw_body
from providers.http.transport_errors import close_reason_of, transport_error
from providers.models.fitting import Fitted, SettingsFitter
from streaming.http.close_reason import CloseReason

PLACEHOLDER_KEY = "no-key"
"""The API key for servers that need none, because the SDKs require a value."""
_RAW_STREAM_OPTIONS = {"cast_to": httpx2.Response, "stream": True}
"""Options that make an SDK return the HTTP response itself, with its body unread."""


class SDKHTTPClient(httpx2.AsyncClient):
    """The HTTP client to pass to an SDK. It can capture what the SDK would send."""

    def __init__(self, service: ServiceConfig) -> None:
        arguments = service.client_kwargs(httpx2)
        self._capturing = arguments["transport"] = CapturingTransport(httpx2, arguments["transport"])
        super().__init__(**arguments)

    async def capture(self, opening: Callable[[str], AbstractAsyncContextManager[Any]]) -> httpx2.Request:
        """Return the request that `opening` sends with the request id that it is called with, without sending it."""
        request: httpx2.Request = await self._capturing.capture(opening)
        return request


class SDKAdapter(ServiceAdapter):
    """The adapter of a service through the client of an SDK. A dialect states its paths, bodies and decoder.

    `sdk` is the SDK's module, `client` its client on the HTTP client `http`.
    """

    chat_path: ClassVar[str]
    models_path: ClassVar[str] = "/models"
    models_params: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, service: ServiceConfig, fitter: SettingsFitter, sdk: ModuleType, client: Any, http: SDKHTTPClient
    ) -> None:
        super().__init__(service, fitter, httpx2)
        self._sdk = sdk
        self._client = client
        self._http = http

    @abstractmethod
    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body of a request."""

    def open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        """Send a request and return its open response as a context. Entering it raises StreamError.

        It uses the generic method that the SDKs document for endpoints without a method of their own: the specific
        methods first check the body against every possible type, which is a tenth of the CPU time up to an answer's
        first event.
        """
        request = fitted.request
        headers = {} if request.request_id is None else {REQUEST_ID_HEADER: request.request_id}
        call = partial(
            self._client.post,
            self.chat_path,
            body=self.request_body(fitted),
            options={"headers": headers},
            **_RAW_STREAM_OPTIONS,
        )
        return self._open(call, request.model)

    def open_model_list(self) -> AbstractAsyncContextManager[StreamingResponse] | None:
        """Request the list of models and return its open response as a context."""
        options = {"params": self.models_params}
        return self._open(partial(self._client.get, self.models_path, options=options, **_RAW_STREAM_OPTIONS), "")

    async def build_request(self, fitted: Fitted) -> httpx2.Request:
        """Return the request that the SDK would send."""
        request = fitted.request
        return await self._http.capture(
            lambda request_id: self.open_response(replace(fitted, request=replace(request, request_id=request_id)))
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    @asynccontextmanager
    async def _open(
        self, call: Callable[[], Awaitable[httpx2.Response]], model: str
    ) -> AsyncIterator[StreamingResponse]:
        """Make an SDK's call, yield its response and close it afterwards. Raises StreamError for the SDK's errors.

        The call is made on entry, so that a context which is never entered leaves no coroutine unawaited.
        """
        sdk, service, answered = self._sdk, self.service, False
        try:
            response = await call()
            answered = True
            async with aclosing(response):
                yield StreamingResponse(
                    response.headers.get("content-type", ""), raw_body(response), find_request_id(response.headers)
                )
        except sdk.APIStatusError as error:
            result = error.response
            raise error_from_response(service.names, model, result.status_code, result.headers, result.text) from None
        except (sdk.APIConnectionError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            fault = (error.__cause__ or error) if isinstance(error, sdk.APIConnectionError) else error
            raise transport_error(close_reason_of(fault, httpx2), fault, service, answered=answered) from None
        except RuntimeError as error:
            if not self._client.is_closed():
                raise
            raise transport_error(CloseReason.RESET, error, service, answered=answered) from None
