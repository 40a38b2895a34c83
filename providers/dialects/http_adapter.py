"""The base of dialects without an SDK that opens requests: an adapter over a plain client of httpx or httpx2."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import Any, ClassVar

from providers.dialects.service_adapter import ServiceAdapter
from providers.http.client import ServiceConfig, StreamingResponse, find_request_id
from providers.http.errors import error_from_response
from providers.http.transport import REQUEST_ID_HEADER, raw_body
from providers.http.transport_errors import close_reason_of, transport_error
from providers.models.fitting import Fitted, SettingsFitter
from streaming.http.close_reason import CloseReason


class HTTPAdapter(ServiceAdapter):
    """The adapter of a service over `client`, an AsyncClient of `httpx` whose base URL and headers are the service's.

    A dialect states its paths, bodies and decoder. `models_path` None: the service has no list of models.
    """

    chat_path: ClassVar[str]
    models_path: ClassVar[str | None] = None

    def __init__(self, service: ServiceConfig, fitter: SettingsFitter, httpx: ModuleType, client: Any) -> None:
        super().__init__(service, fitter, httpx)
        self._http = client

    @abstractmethod
    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body of a request."""

    def open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        """Send a request and return its open response as a context. Entering it raises StreamError."""
        return self._open(self._new_request(fitted), fitted.request.model)

    def open_model_list(self) -> AbstractAsyncContextManager[StreamingResponse] | None:
        """Request the list of models and return its open response as a context; None when the service has no list."""
        return None if self.models_path is None else self._open(self._http.build_request("GET", self.models_path), "")

    async def build_request(self, fitted: Fitted) -> Any:
        """Return the request that `open_response` would send."""
        return self._new_request(fitted)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _new_request(self, fitted: Fitted) -> Any:
        request_id = fitted.request.request_id
        headers = {} if request_id is None else {REQUEST_ID_HEADER: request_id}
        return self._http.build_request("POST", self.chat_path, json=self.request_body(fitted), headers=headers)

    @asynccontextmanager
    async def _open(self, request: Any, model: str) -> AsyncIterator[StreamingResponse]:
        httpx, service, answered = self.httpx, self.service, False
        try:
            response = await self._http.send(request, stream=True)
            answered = True
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_from_response(
                        service.names, model, response.status_code, response.headers, response.text
                    )
                yield StreamingResponse(
                    response.headers.get("content-type", ""), raw_body(response), find_request_id(response.headers)
                )
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(close_reason_of(error, httpx), error, service, answered=answered) from None
        except RuntimeError as error:
            if not self._http.is_closed:
                raise
            raise transport_error(CloseReason.RESET, error, service, answered=answered) from None
