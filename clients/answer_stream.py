"""One answer as a program reads it, the same over every wire."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypedDict

from clients.errors import AnswerFailedError, ClientError, ConnectionLostError, InvalidResponseError
from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, Event, TerminalEvent, WireEvent, parse_event
from clients.position import StreamPosition
from streaming.events import TextDelta, ThinkingDelta
from streaming.limits import MAX_ANSWER_CHARS


class ChatParams(TypedDict, total=False):
    """The fields of a question; either `message` or `messages`, a list of `{"role", "content"}`, must be there."""

    message: str
    messages: list[dict[str, str]]
    provider: str
    strategy: str
    system: str
    temperature: float
    max_tokens: int
    effort: str
    resume: bool


class Callbacks:
    """What a program that does not iterate is told; the errors are those that end an answer."""

    def __init__(
        self, on_message: Callable[[str], Any] | None = None, on_error: Callable[[ClientError], Any] | None = None
    ) -> None:
        self.on_message = on_message or _ignore_event
        self.on_error = on_error or _ignore_event


class ClientAnswerStream:
    """Iterate it inside `async with`, which asks; leaving that block closes the connection at once.

    Gives any number of events and one `TerminalEvent`, last, or raises ClientError: a cut is never an end. After a cut
    the answer goes on by itself where `resume` was asked; then leaving is not stopping, `cancel` is.
    """

    def __init__(
        self,
        frames: AsyncGenerator[WireEvent, None],
        progress: StreamPosition,
        stop: Callable[[StreamPosition], Awaitable[None]],
        listener: Callbacks,
    ) -> None:
        self._texts: list[str] = []
        self._chars_left = MAX_ANSWER_CHARS
        self.end: TerminalEvent | None = None
        self._frames = frames
        self._progress = progress
        self._stop = stop
        self._listener = listener
        self._ahead: deque[Event] = deque()
        self._pulling = asyncio.Lock()

    @property
    def content(self) -> str:
        """The answer's text so far."""
        self._texts = ["".join(self._texts)]
        return self._texts[0]

    @property
    def is_connected(self) -> bool:
        """Whether the answer's connection is open now."""
        return self._progress.connected

    @property
    def stream_id(self) -> str | None:
        """How the service calls this answer; known inside `async with`."""
        return self._progress.stream_id

    @property
    def last_id(self) -> str | None:
        """The id of the last event that came: who comes back later goes on after it."""
        return self._progress.last_id

    async def __aenter__(self) -> Self:
        if self.stream_id is None:
            try:
                await self._next_event()
            except BaseException:
                await self._frames.aclose()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._frames.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ahead:
            async with self._pulling:
                if not self._ahead and not await self._next_event():
                    raise StopAsyncIteration
        event = self._ahead.popleft()
        if isinstance(event, TextDelta):
            self._listener.on_message(event.text)
        elif isinstance(event, AnswerFailed):
            self._listener.on_error(AnswerFailedError(event.message))
        return event

    async def cancel(self) -> TerminalEvent:
        """Stop the provider's work; give the receipt, `AnswerCancelled`, or the end that was faster.

        What came before is still there to be iterated. Raises ClientError when the end cannot be learned.
        """
        if self.end is None:
            self._progress.cancelling = True
            await self._stop(self._progress)
        while self.end is None:
            async with self._pulling:
                if self.end is None and not await self._next_event():
                    raise ConnectionLostError("the answer was left before it ended: its receipt is not known")
        return self.end

    async def _next_event(self) -> bool:
        """Take the next frame in; False when there is none."""
        try:
            frame = await anext(self._frames, None)
            event = None if frame is None else parse_event(frame)
            if isinstance(event, (TextDelta, ThinkingDelta)):
                self._count(event.text)
        except ClientError as error:
            self._listener.on_error(error)
            raise
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
        elif isinstance(event, (AnswerFinished, AnswerFailed, AnswerCancelled)):
            self.end = event
        if event is not None:
            self._ahead.append(event)
        return frame is not None

    def _count(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left < 0:
            raise InvalidResponseError(f"the service sent an answer of more than {MAX_ANSWER_CHARS:,} characters")


class BackgroundTasks:
    """Answers that are read by nobody but their callbacks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, answer: ClientAnswerStream) -> None:
        """Read it to its end; errors are told by `on_error`, not raised."""
        task = asyncio.create_task(_read_to_end(answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def cancel_all(self) -> None:
        """Leave all of them."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read_to_end(answer: ClientAnswerStream) -> None:
    with suppress(ClientError):
        async with answer:
            async for _ in answer:
                pass


def _ignore_event(_: Any) -> None:
    """Nobody listens."""
