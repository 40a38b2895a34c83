"""An adapter that plays a script and records the requests and how they ended."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from streaming.adapter import ListedModel, UnpreparableRequest
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest, Message

ScriptStep = tuple[float, Event | Exception]
"""The delay after the previous step in seconds, and the event or error."""

REQUEST = ChatRequest((Message("user", "Name three colours."),))
FINISH = Finish("stop", "stop")


def words_script(count: int, *, first_s: float = 0.2, gap_s: float = 0.02) -> list[ScriptStep]:
    """Return the script of a complete stream: `count` words, usage, the end."""
    deltas: list[ScriptStep] = [(gap_s if i else first_s, TextDelta(f"w{i} ")) for i in range(count)]
    return [*deltas, (0.0, Usage(4, count)), (0.0, FINISH)]


class InProcessAdapter:
    """What the adapters of tests share: they prepare no bytes, list no models and hold nothing."""

    async def prepare_request(self, request: ChatRequest) -> UnpreparableRequest:
        return UnpreparableRequest("the adapter of a test runs in this process")

    async def list_models(self) -> list[ListedModel]:
        return []

    async def aclose(self) -> None: ...


class ScriptedAdapter(InProcessAdapter):
    """Plays `scripts` one a call, the last one for all further calls."""

    def __init__(self, *scripts: Sequence[ScriptStep]) -> None:
        self._scripts = list(scripts)
        self.requests: list[ChatRequest] = []
        self.asked_at_s: list[float] = []
        self.open = 0
        self.given = 0
        self.closed_at_s: list[float] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        clock = asyncio.get_running_loop().time
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.requests.append(request)
        self.asked_at_s.append(clock())
        self.open += 1
        try:
            for delay_s, event in script:
                await asyncio.sleep(delay_s)
                if isinstance(event, Exception):
                    raise event
                self.given += 1
                yield event
        finally:
            self.open -= 1
            self.closed_at_s.append(clock())

    async def aclose(self) -> None:
        assert self.open == 0
