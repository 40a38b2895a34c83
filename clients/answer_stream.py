"""The client's view of one answer: an async iterator of events, the same over SSE and WebSocket."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypedDict
from urllib.parse import urlsplit

from clients.answer_reader import NewEvent
from clients.errors import AnswerFailedError, ClientError, ConnectionLostError, InvalidResponseError
from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, Event, TerminalEvent
from clients.position import StreamPosition
from streaming.events import TextDelta, ThinkingDelta
from streaming.limits import MAX_ANSWER_CHARS


class ChatParams(TypedDict, total=False):
    """The fields of a chat request; either `message` or `messages`, a list of `{"role", "content"}`, is required."""

    message: str
    messages: list[dict[str, str]]
    provider: str
    strategy: str
    system: str
    temperature: float
    max_tokens: int
    effort: str
    ignore_eos: bool
    resume: bool


class Callbacks:
    """The callbacks of a client: `on_message` receives text, `on_error` the error that ends an answer."""

    def __init__(
        self, on_message: Callable[[str], Any] | None = None, on_error: Callable[[ClientError], Any] | None = None
    ) -> None:
        self.on_message = on_message or _ignore_event
        self.on_error = on_error or _ignore_event


class ClientAnswerStream:
    """An async iterator of one answer's events.

    Use it inside `async with`: entering the block sends the request, leaving it closes the connection at once. Yields
    any number of events and then one `TerminalEvent`, or raises ClientError: a lost connection is never an end.
    With `resume` in the request the client reconnects by itself, and only `cancel` stops the answer; leaving the block
    does not.
    """

    def __init__(
        self,
        frames: AsyncGenerator[NewEvent, None],
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
        self._pending: deque[Event] = deque()
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
        """The service's id of this answer; known inside `async with`."""
        return self._progress.stream_id

    @property
    def last_id(self) -> str | None:
        """The id of the last event received, from which the answer can be resumed later."""
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
        while not self._pending:
            async with self._pulling:
                if not self._pending and not await self._next_event():
                    raise StopAsyncIteration
        event = self._pending.popleft()
        if isinstance(event, TextDelta):
            self._listener.on_message(event.text)
        elif isinstance(event, AnswerFailed):
            self._listener.on_error(AnswerFailedError(event.message))
        return event

    async def cancel(self) -> TerminalEvent:
        """Stop the provider's work, and return `AnswerCancelled` with the receipt, or the end that came first.

        Events received before can still be iterated. Raises ClientError when the end cannot be determined.
        """
        if self.end is None:
            self._progress.cancelling = True
            await self._stop(self._progress)
        while self.end is None:
            async with self._pulling:
                if self.end is None and not await self._next_event():
                    raise ConnectionLostError(
                        "answer: closed before its end, so its receipt is unknown (read it to the end)"
                    )
        return self.end

    async def _next_event(self) -> bool:
        """Read the next event into the queue; return False at the end of the stream."""
        try:
            new = await anext(self._frames, None)
            event = None if new is None else new.event
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
            self._pending.append(event)
        return new is not None

    def _count(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left < 0:
            raise InvalidResponseError(f"answer: longer than {MAX_ANSWER_CHARS:,} characters")


class BackgroundTasks:
    """The answers that are read in the background, for their callbacks only."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, answer: ClientAnswerStream) -> None:
        """Read an answer to its end in a task; errors go to `on_error` and are not raised."""
        task = asyncio.create_task(_read_to_end(answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def cancel_all(self) -> None:
        """Cancel all background tasks, and wait until they have ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read_to_end(answer: ClientAnswerStream) -> None:
    with suppress(ClientError):
        async with answer:
            async for _ in answer:
                pass


def is_address(url: str) -> bool:
    """Return whether a URL has a host, and a port that is valid if it has one."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _ignore_event(_: Any) -> None:
    """Do nothing: the default callback."""
