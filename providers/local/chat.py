"""The chat with the model in this process: chat completions, always streamed, with the prompt's progress."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from providers.dialects.chat_completions import ChatCompletionsAdapter
from providers.http.client import DEFAULT_HEADERS, ServiceConfig
from providers.http.errors import ServiceLabels
from providers.models.facts import load_built_in_facts
from providers.models.fitting import Fitted, SettingsFitter
from providers.offline.buffered import buffer_events
from providers.services import CompatProfile
from streaming.errors import BadRequestError
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class LocalChatAdapter(ChatCompletionsAdapter):
    """Asks the server at `base_url` with `key`.

    llama.cpp notices by writing that its client has left. So it is asked for its progress after every batch of the
    prompt, and for a stream also when the reader wants the whole answer at once.
    """

    def __init__(self, base_url: str, key: str, timeouts: Timeouts) -> None:
        names = ServiceLabels("The local model", base_url)
        fitter = SettingsFitter(load_built_in_facts(), "local")
        super().__init__(ServiceConfig(names, timeouts, key), CompatProfile(shows_thinking=True), fitter=fitter)
        # It ends a connection soon after an answer, now and then just when the next question is on its way.
        self._client._custom_headers = {**DEFAULT_HEADERS, "Connection": "close"}

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        events = _add_advice(super().stream(replace(request, streamed=True)))
        return events if request.streamed else buffer_events(events)

    def _request_body(self, fitted: Fitted) -> dict[str, Any]:
        return {**super()._request_body(fitted), "return_progress": True}


async def _add_advice(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Say what to do about a question that does not fit; llama.cpp's advice is for who runs it."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BadRequestError as error:
        message = error.message.removesuffix(", try increasing it")
        advice = "" if message == error.message else ": shorten the conversation"
        raise BadRequestError(message + advice, http_status=error.http_status) from None
