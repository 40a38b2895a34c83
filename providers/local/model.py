"""A real language model in this process: found, loaded in the background, and asked like any other provider."""

import asyncio
import importlib
import threading
import weakref
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from providers.local.model_file import NoModelError, configured_model_file, find_model, warm_page_cache
from providers.local.server import LlamaServer, ServerSlot
from settings import Settings
from streaming.clock import Clock, monotonic
from streaming.errors import ModelLoadError, NotFoundError, StreamError, UsageError
from streaming.events import Event, Notice
from streaming.messages import ChatRequest
from streaming.session import Timeouts

if TYPE_CHECKING:
    from providers.local.chat import LocalChatAdapter

MAX_TOKENS = 512
"""The limit of an answer where the asker sets none: a small model may ramble without end."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """Where the model stands; `message` is for a person, `elapsed_s` how long it has been loading, or took to load.

    `error` is the kind of error that answers end with while it has failed.
    """

    kind: Literal["idle", "loading", "ready", "failed"]
    message: str
    elapsed_s: float
    error: str | None = None


class LocalModel:
    """The model's life. Nothing is read before `start`; it may be called from any thread, and any number of times.

    A load that failed is tried again by the next `start`. At the process's exit the model is closed, if it is not yet.
    """

    def __init__(self, settings: Settings, clock: Clock = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: Future[LlamaServer] | None = None
        self._started_s = 0.0
        self._took_s = 0.0
        self._keeper = ServerSlot()
        self._finalizer = weakref.finalize(self, self._keeper.close)

    def validate_file(self) -> None:
        """Raise UsageError when the settings name a file that is not a model's."""
        configured_model_file(self._settings)

    def start(self) -> None:
        """Begin to load, unless that has begun."""
        self._start_loading()

    @property
    def state(self) -> ModelState:
        with self._lock:
            loaded = self._loaded
            elapsed_s = self._took_s or self._clock() - self._started_s
        if loaded is None:
            return ModelState("idle", "The model is not loaded yet.", 0.0)
        if not loaded.done():
            return ModelState("loading", f"The model is loading ({elapsed_s:.0f} s)…", elapsed_s)
        if (error := loaded.exception()) is not None:
            return ModelState("failed", str(error), elapsed_s, _stream_error(error).kind)
        return ModelState("ready", f"The model is ready (loaded in {elapsed_s:.1f} s).", elapsed_s)

    async def wait_base_url(self) -> str:
        """Start if need be, wait, and give the base URL, `/v1` included. Raises UsageError saying what to do."""
        return (await self.wait_server()).base_url

    async def wait_server(self) -> LlamaServer:
        """Start if need be, wait, and give the server. Cancelling the wait does not end the load. Raises UsageError."""
        loaded, done, loop = self._start_loading(), asyncio.Event(), asyncio.get_running_loop()

        def wake_waiter(_: "Future[LlamaServer]") -> None:
            with suppress(RuntimeError):  # the loop that waited has been closed meanwhile
                loop.call_soon_threadsafe(done.set)

        loaded.add_done_callback(wake_waiter)
        await done.wait()
        if (error := loaded.exception()) is not None:
            raise type(error)(str(error))  # each who waits has an exception of its own
        return loaded.result()

    def close(self) -> None:
        """End the model and every answer on its way; waits for a load that has begun. Again is harmless."""
        self._finalizer()
        with self._lock:
            self._loaded = None

    async def aclose(self) -> None:
        """`close` without holding up the loop while a load is waited for."""
        await asyncio.to_thread(self.close)

    def _start_loading(self) -> "Future[LlamaServer]":
        with self._lock:
            if self._loaded is None or (self._loaded.done() and self._loaded.exception() is not None):
                self._loaded = Future()
                self._started_s, self._took_s = self._clock(), 0.0
                # A daemon: an exit does not wait for a download, and `close` waits for what must be waited for.
                threading.Thread(
                    target=self._load_server, args=(self._loaded,), name="local-model", daemon=True
                ).start()
            return self._loaded

    def _load_server(self, loaded: "Future[LlamaServer]") -> None:
        try:
            path = find_model(self._settings)
            warm_page_cache(path)
            # Here, because importing the SDK takes a second, which the first question would wait for.
            importlib.import_module("providers.local.chat")
            server = self._keeper.open(path)
        except Exception as error:  # it is told to who waits
            self._record_duration()
            loaded.set_exception(error if isinstance(error, UsageError) else UsageError(f"no local model: {error}"))
        else:
            self._record_duration()
            loaded.set_result(server)

    def _record_duration(self) -> None:
        with self._lock:
            self._took_s = self._clock() - self._started_s


def _stream_error(error: BaseException) -> StreamError:
    """Return the error of an answer for what the model could not be loaded for."""
    return (NotFoundError if isinstance(error, NoModelError) else ModelLoadError)(str(error))


class LocalAdapter:
    """Asks the model in this process; says that it is loading while it is. Used on one event loop."""

    def __init__(self, model: LocalModel, timeouts: Timeouts) -> None:
        self._model = model
        self._timeouts = timeouts
        self._chats: dict[str, LocalChatAdapter] = {}

    def validate_model(self, model: str) -> None:
        """Raise UsageError for another name than none. What is wrong with the model's file, an answer ends with."""
        if model:
            raise UsageError("local has one model: write it without another name")

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of one answer; see `streaming.adapter.Adapter`."""
        self._model.start()
        if (state := self._model.state).kind == "loading":
            yield Notice("loading", state.message, {"elapsed_s": round(state.elapsed_s, 3)})
        try:
            server = await self._model.wait_server()
        except UsageError as error:
            raise _stream_error(error) from None
        max_tokens = MAX_TOKENS if request.max_tokens is None else request.max_tokens
        asked = replace(request, model="local", max_tokens=max_tokens)
        async with aclosing(self._chat_adapter(server).stream(asked)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Close the connections; the model itself is closed by its owner."""
        chats, self._chats = self._chats, {}
        for chat in chats.values():
            await chat.aclose()

    def _chat_adapter(self, server: LlamaServer) -> "LocalChatAdapter":
        if server.base_url not in self._chats:
            from providers.local.chat import LocalChatAdapter

            self._chats[server.base_url] = LocalChatAdapter(server.base_url, server.key, self._timeouts)
        return self._chats[server.base_url]
