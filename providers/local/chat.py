"""The adapter of the local llama.cpp server: chat completions, always streamed, with the progress of the prompt."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from providers.dialects.chat_completions import ChatCompletionsAdapter, openai_client
from providers.dialects.sdk_client import SDKHTTPClient
from providers.http.client import DEFAULT_HEADERS, ServiceConfig
from providers.http.errors import ServiceLabels
from providers.models.facts import load_built_in_facts
from providers.models.fitting import Fitted, SettingsFitter
from providers.offline.buffered import buffer_events
from providers.services import LLAMA_CPP_PROFILE
from streaming.errors import BadRequestError
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class LocalChatAdapter(ChatCompletionsAdapter):
    """The adapter of the server at `base_url`, which requires `key`.

    llama.cpp notices only when it writes that its client has disconnected. It is therefore always requested to stream,
    even when the caller wants the whole answer at once, and to report its progress after every batch of the prompt.
    """

    def __init__(self, base_url: str, key: str, timeouts: Timeouts) -> None:
        service = ServiceConfig(ServiceLabels("The local model", base_url), timeouts, key)
        http = SDKHTTPClient(service)
        # The server closes idle connections soon after an answer, sometimes while the next request is being sent.
        client = openai_client(service, http, {**DEFAULT_HEADERS, "Connection": "close"})
        fitter = SettingsFitter(load_built_in_facts(), "local")
        super().__init__(service, http, client, LLAMA_CPP_PROFILE, fitter)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of one answer; see `streaming.adapter.Adapter`."""
        events = _add_advice(super().stream(replace(request, streamed=True)))
        return events if request.streamed else buffer_events(events)

    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body, which also requests the progress of the prompt."""
        return {**super().request_body(fitted), "return_progress": True}


async def _add_advice(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield the events. When a prompt is too long, replace llama.cpp's advice for operators with advice for users."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BadRequestError as error:
        message = error.message.removesuffix(", try increasing it")
        advice = "" if message == error.message else " (shorten the conversation)"
        raise BadRequestError(message + advice, http_status=error.http_status) from None
