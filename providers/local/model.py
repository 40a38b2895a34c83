"""The language model in this process, which is loaded in the background and used like any other provider."""

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
from streaming.adapter import ListedModel, UnpreparableRequest
from streaming.clock import Clock, monotonic
from streaming.errors import ModelLoadError, NotFoundError, StreamError, UsageError
from streaming.events import Event, Notice
from streaming.messages import ChatRequest
from streaming.session import Timeouts

if TYPE_CHECKING:
    from providers.local.chat import LocalChatAdapter

MAX_TOKENS = 512
"""The default `max_tokens` of a request without a limit, because a small model may never stop by itself."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """The state of the model. `message` is for users; `elapsed_s` is how long loading has taken so far, or took.

    `error` is the `kind` of the error with which answers end after a failed load.
    """

    kind: Literal["idle", "loading", "ready", "failed"]
    message: str
    elapsed_s: float
    error: str | None = None


class LocalModel:
    """The local model from loading to closing. `start` begins to load; it may be called repeatedly from any thread.

    After a failed load, the next `start` tries again. At the exit of the process the model is closed if it still runs.
    """

    def __init__(self, settings: Settings, clock: Clock = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: Future[LlamaServer] | None = None
        self._started_s = 0.0
        self._took_s = 0.0
        self._server_slot = ServerSlot()
        self._finalizer = weakref.finalize(self, self._server_slot.close)

    def validate_file(self) -> None:
        """Raise UsageError when the settings name a file that is not a model."""
        configured_model_file(self._settings)

    def start(self) -> None:
        """Begin to load the model, unless loading has already begun."""
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
        """Start the model if necessary, wait until it is ready, and return its base URL, which includes `/v1`.

        Raises UsageError saying what to do.
        """
        return (await self.wait_server()).base_url

    async def wait_server(self) -> LlamaServer:
        """Start the model if necessary, wait until it is ready, and return its server.

        Cancelling the wait does not stop the load. Raises UsageError when the load has failed.
        """
        loaded, done, loop = self._start_loading(), asyncio.Event(), asyncio.get_running_loop()

        def wake_waiter(_: "Future[LlamaServer]") -> None:
            with suppress(RuntimeError):  # the waiting event loop may have been closed
                loop.call_soon_threadsafe(done.set)

        loaded.add_done_callback(wake_waiter)
        await done.wait()
        if (error := loaded.exception()) is not None:
            raise type(error)(str(error))  # every waiter raises its own exception object
        return loaded.result()

    def close(self) -> None:
        """Wait for a load that has begun, then close the model and abort its running answers. Safe to call twice."""
        self._finalizer()
        with self._lock:
            self._loaded = None

    async def aclose(self) -> None:
        """Close the model without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _start_loading(self) -> "Future[LlamaServer]":
        with self._lock:
            if self._loaded is None or (self._loaded.done() and self._loaded.exception() is not None):
                self._loaded = Future()
                self._started_s, self._took_s = self._clock(), 0.0
                # A daemon thread, so that the process can exit during a download; `close` waits for the server itself.
                threading.Thread(
                    target=self._load_server, args=(self._loaded,), name="local-model", daemon=True
                ).start()
            return self._loaded

    def _load_server(self, loaded: "Future[LlamaServer]") -> None:
        try:
            path = find_model(self._settings)
            warm_page_cache(path)
            # Importing the SDK takes about a second; imported here, it does not delay the first request.
            importlib.import_module("providers.local.chat")
            server = self._server_slot.open(path)
        except Exception as error:  # passed on to all waiters
            self._record_duration()
            loaded.set_exception(
                error if isinstance(error, UsageError) else UsageError(f"local: the model cannot be loaded ({error})")
            )
        else:
            self._record_duration()
            loaded.set_result(server)

    def _record_duration(self) -> None:
        with self._lock:
            self._took_s = self._clock() - self._started_s


def _stream_error(error: BaseException) -> StreamError:
    """Return the error of an answer for the exception with which the model failed to load."""
    return (NotFoundError if isinstance(error, NoModelError) else ModelLoadError)(str(error))


class LocalAdapter:
    """The adapter of the local model. Its answers begin with a notice while the model loads. Used on one event loop."""

    def __init__(self, model: LocalModel, timeouts: Timeouts) -> None:
        self._model = model
        self._timeouts = timeouts
        self._chats: dict[str, LocalChatAdapter] = {}

    def validate_model(self, model: str) -> None:
        """Raise UsageError unless `model` is empty. Errors of the model's file are raised by `stream` instead."""
        if model:
            raise UsageError("local: has only one model (write local without a model name)")

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
        local_request = replace(request, model="local", max_tokens=max_tokens)
        async with aclosing(self._chat_adapter(server).stream(local_request)) as events:
            async for event in events:
                yield event

    async def prepare_request(self, request: ChatRequest) -> UnpreparableRequest:
        """Return that the model runs in this process."""
        return UnpreparableRequest("the local model runs in this process")

    async def list_models(self) -> list[ListedModel]:
        """Return an empty list, because the one model has no name."""
        return []

    async def aclose(self) -> None:
        """Close the connections. The model itself is closed by its owner."""
        chats, self._chats = self._chats, {}
        for chat in chats.values():
            await chat.aclose()

    def _chat_adapter(self, server: LlamaServer) -> "LocalChatAdapter":
        if server.base_url not in self._chats:
            from providers.local.chat import LocalChatAdapter

            self._chats[server.base_url] = LocalChatAdapter(server.base_url, server.key, self._timeouts)
        return self._chats[server.base_url]
