"""The chat with the model in this process: chat completions, always streamed, with the prompt's progress."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from providers.chat_completions import ChatCompletionsAdapter
from providers.facts import load_built_in_facts
from providers.fitting import Fitted, SettingsFitter
from providers.refusals import Names
from providers.rows import Quirks
from providers.upstream import HEADERS, Service
from providers.whole import whole
from streaming.errors import BadRequest
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class LocalChat(ChatCompletionsAdapter):
    """Asks the server at `base_url` with `key`.

    llama.cpp notices by writing that its client has left. So it is asked for its progress after every batch of the
    prompt, and for a stream also when the reader wants the whole answer at once.
    """

    def __init__(self, base_url: str, key: str, timeouts: Timeouts) -> None:
        names = Names("The local model", base_url)
        fitter = SettingsFitter(load_built_in_facts(), "local")
        super().__init__(Service(names, timeouts, key), Quirks(shows_thinking=True), fitter=fitter)
        # It ends a connection soon after an answer, now and then just when the next question is on its way.
        self._client._custom_headers = {**HEADERS, "Connection": "close"}

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        events = _advised(super().stream(replace(request, streamed=True)))
        return events if request.streamed else whole(events)

    def _body(self, fitted: Fitted) -> dict[str, Any]:
        return {**super()._body(fitted), "return_progress": True}


async def _advised(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Say what to do about a question that does not fit; llama.cpp's advice is for who runs it."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BadRequest as error:
        message = error.message.removesuffix(", try increasing it")
        advice = "" if message == error.message else ": shorten the conversation"
        raise BadRequest(message + advice, http_status=error.http_status) from None
