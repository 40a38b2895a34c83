"""The WebSocket transport: chat requests on one connection, answered one after another."""

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard import Caller, RejectionError, check_depth, check_size
from server.chat_service import ChatService
from server.error_handlers import describe_error
from server.error_shapes import OWN_SHAPE
from server.schemas import ChatRequestBody, ResumeRequest, invalid_json_rejection, validation_rejection
from server.streams.active import INTERNAL_ERROR
from server.streams.buffer import StreamNotFoundError, StreamStoreFullError, StreamUnavailableError
from server.streams.reader import EventReader
from server.tasks import end_tasks
from streaming.errors import UsageError

MAX_QUEUED_REQUESTS = 4
"""The number of requests that may wait while another is being answered."""
CANCEL_RETRY_S = 1.0
"""The time between two attempts to cancel a stream that could not be found, as while Redis does not respond."""
SUBPROTOCOL = "streamgauge"
POLICY_VIOLATION_CODE, TOO_BIG_CODE, NOT_TEXT_CODE, INTERNAL_ERROR_CODE, RESTART_CODE = 1008, 1009, 1007, 1011, 1012

_log = logging.getLogger(__name__)
_CLOSE_CODE_BY_RULE = {"validation.size": TOO_BIG_CODE, "body.json": NOT_TEXT_CODE, "validation.unicode": NOT_TEXT_CODE}


class WebSocketSession:
    """One WebSocket connection. A rejection by the guard is sent as an error frame, and closes the connection."""

    def __init__(self, socket: WebSocket, chat_service: ChatService) -> None:
        self._socket = socket
        self._chat_service = chat_service
        self._facts: Caller = socket.state.facts
        self._requests: asyncio.Queue[ChatRequestBody | ResumeRequest] = asyncio.Queue()
        self._unanswered = 0
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve requests until the client disconnects, which stops its answers unless they are resumable."""
        offered = self._socket.scope["subprotocols"]
        await self._socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        work = [asyncio.create_task(part()) for part in (self._receive_messages, self._serve_requests)]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
        for fault in [task.exception() for task in work if not task.cancelled()]:
            if fault is not None:
                await self._close_with_error(fault)
                return

    async def _receive_messages(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            with self._chat_service.recording_rejections():
                self._handle_message(message)

    def _handle_message(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise RejectionError("body.json", "invalid", "the frame: not text (send JSON in text frames)")
        body = _parse_frame(self._chat_service, text)
        kind = body.pop("type", "message")
        if kind == "cancel":
            if self._unanswered:
                self._stop.set()
            return
        models: dict[Any, type[ChatRequestBody | ResumeRequest]] = {"message": ChatRequestBody, "resume": ResumeRequest}
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise RejectionError(
                "body.fields", "invalid", "type: unknown (use message, the default, or cancel or resume)"
            )
        try:
            request = model.model_validate(body)
        except ValidationError as error:
            raise validation_rejection(error.errors()) from None
        if self._unanswered > MAX_QUEUED_REQUESTS:
            raise RejectionError(
                "busy",
                "rate_limited",
                f"queue: {MAX_QUEUED_REQUESTS} requests are already waiting (wait until one has ended)",
            )
        self._unanswered += 1
        self._requests.put_nowait(request)

    async def _serve_requests(self) -> None:
        with suppress(WebSocketDisconnect):
            while (request := await self._next_request()) is not None:
                try:
                    await self._answer_request(request)
                except (UsageError, StreamStoreFullError, StreamNotFoundError, StreamUnavailableError) as fault:
                    await self._send_error(fault)
                self._unanswered -= 1
                self._stop.clear()
            await self._socket.close(RESTART_CODE, "the service is stopping")

    async def _next_request(self) -> ChatRequestBody | ResumeRequest | None:
        """Wait for the next request and return it; return None when the service is stopping."""
        draining = self._chat_service.streams.draining
        request, stopping = asyncio.create_task(self._requests.get()), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait([request, stopping], return_when=asyncio.FIRST_COMPLETED)
            return None if draining.is_set() else request.result()
        finally:
            request.cancel()
            stopping.cancel()

    async def _answer_request(self, request: ChatRequestBody | ResumeRequest) -> None:
        if isinstance(request, ResumeRequest):
            with self._chat_service.recording_rejections():
                caller = self._chat_service.guard.identify(self._facts)
            stream_id = request.stream_id
            reader = await self._chat_service.resume_reader(stream_id, caller, request.last_seq())
        else:
            chat = request.to_chat_request(self._socket.headers.get("x-client-request-id"))
            stream = await self._chat_service.start_answer(
                self._facts, request.provider_list(), chat, request.strategy, wire="websocket"
            )
            stream_id, caller = stream.id, self._chat_service.guard.identify(self._facts)
            reader = await self._chat_service.first_reader(stream, request.resume)
        async with aclosing(reader):
            if reader.ended:
                await self._send_json({"type": "ended", "stream_id": stream_id})
                return
            stopper = asyncio.create_task(self._cancel_on_request(stream_id, caller))
            try:
                await self._send_events(reader, stream_id)
            finally:
                await end_tasks([stopper])

    async def _send_events(self, reader: EventReader, stream_id: str) -> None:
        send, prefix = self._socket.send_text, f'","id":"{stream_id}:'
        while not reader.ended:
            for seq, name, data in await reader.next_batch():
                fields = data[1:].decode()
                await send(f'{{"type":"{name}{prefix}{seq}"{"," if len(fields) > 1 else ""}{fields}')

    async def _cancel_on_request(self, stream_id: str, caller: str) -> None:
        """Cancel the stream when the client asks for it; try again while Redis or another replica does not reply."""
        await self._stop.wait()
        while True:
            with suppress(StreamNotFoundError, StreamUnavailableError):
                await self._chat_service.cancel(stream_id, caller)
                return
            await asyncio.sleep(CANCEL_RETRY_S)

    async def _close_with_error(self, fault: BaseException) -> None:
        """Send a last frame with the rejection, or with an internal error, and close the connection."""
        code, reason = INTERNAL_ERROR_CODE, INTERNAL_ERROR.kind
        if isinstance(fault, RejectionError):
            code, reason = _CLOSE_CODE_BY_RULE.get(fault.rule, POLICY_VIOLATION_CODE), fault.rule
        else:
            _log.error("an internal error in a WebSocket session", exc_info=fault)
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._send_error(fault)
            await self._socket.close(code, reason)

    async def _send_error(self, fault: BaseException) -> None:
        await self._send_json({"type": "error", **OWN_SHAPE.body(describe_error(fault))})

    async def _send_json(self, fields: dict[str, Any]) -> None:
        await self._socket.send_text(orjson.dumps(fields).decode())


def _parse_frame(chat_service: ChatService, text: str) -> dict[str, Any]:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise RejectionError(
            "validation.unicode", "invalid", "the frame: not valid Unicode (remove the lone surrogate)"
        ) from None
    limits = chat_service.guard.configuration.limits
    check_size(len(data), limits)
    check_depth(data, limits)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid_json_rejection(str(error)) from None
    if not isinstance(body, dict):
        raise RejectionError("body.fields", "invalid", "the frame: not a JSON object")
    return body
