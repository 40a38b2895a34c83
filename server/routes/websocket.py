"""The wire over WebSocket: questions one after another on one socket, each answered in its turn."""

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard import Caller, RejectionError, check_depth, check_size
from server.chat_service import ChatService
from server.error_handlers import error_body
from server.schemas import ChatRequestBody, ResumeRequest, invalid_json_rejection, validation_rejection
from server.streams.active import INTERNAL_ERROR
from server.streams.buffer import StreamGoneError, StreamStoreFullError
from server.streams.reader import EventReader
from streaming.errors import UsageError

MAX_QUEUED_QUESTIONS = 4
"""So many questions may wait for the one that is being answered."""
SUBPROTOCOL = "streamgauge"
POLICY_VIOLATION_CODE, TOO_BIG_CODE, NOT_TEXT_CODE, INTERNAL_ERROR_CODE, RESTART_CODE = 1008, 1009, 1007, 1011, 1012

_log = logging.getLogger(__name__)
_CLOSE_CODE_BY_RULE = {"validation.size": TOO_BIG_CODE, "body.json": NOT_TEXT_CODE, "validation.unicode": NOT_TEXT_CODE}


class WebSocketSession:
    """One socket. What the guard refuses is told in a frame, and closes it."""

    def __init__(self, socket: WebSocket, chat_service: ChatService) -> None:
        self._socket = socket
        self._chat_service = chat_service
        self._facts: Caller = socket.state.facts
        self._questions: asyncio.Queue[ChatRequestBody | ResumeRequest] = asyncio.Queue()
        self._unanswered = 0
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until the client leaves; what it did not want kept stops then."""
        offered = self._socket.scope["subprotocols"]
        await self._socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        work = [asyncio.create_task(part()) for part in (self._receive_messages, self._serve_questions)]
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
            self._handle_message(message)

    def _handle_message(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise RejectionError("body.json", "invalid", "send text frames with JSON in UTF-8 in them")
        body = _parse_frame(self._chat_service, text)
        kind = body.pop("type", "message")
        if kind == "cancel":
            if self._unanswered:
                self._stop.set()
            return
        models: dict[Any, type[ChatRequestBody | ResumeRequest]] = {"message": ChatRequestBody, "resume": ResumeRequest}
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise RejectionError("body.fields", "invalid", "`type` is message (the default), cancel or resume")
        try:
            question = model.model_validate(body)
        except ValidationError as found:
            raise validation_rejection(found.errors()) from None
        if self._unanswered > MAX_QUEUED_QUESTIONS:
            raise RejectionError(
                "busy", "rate_limited", f"{MAX_QUEUED_QUESTIONS} questions wait already: let one end first"
            )
        self._unanswered += 1
        self._questions.put_nowait(question)

    async def _serve_questions(self) -> None:
        with suppress(WebSocketDisconnect):
            while (question := await self._next_question()) is not None:
                try:
                    await self._answer_question(question)
                except UsageError as fault:
                    await self._send_json({"type": "error", **error_body("bad_request", str(fault))})
                except (StreamStoreFullError, StreamGoneError) as fault:
                    kind = "unavailable" if isinstance(fault, StreamStoreFullError) else "not_found"
                    await self._send_json({"type": "error", **error_body(kind, str(fault))})
                self._unanswered -= 1
                self._stop.clear()
            await self._socket.close(RESTART_CODE, "the service is stopping")

    async def _next_question(self) -> ChatRequestBody | ResumeRequest | None:
        """Wait for the next question; None when the service is stopping."""
        draining = self._chat_service.streams.draining
        question, stopping = asyncio.create_task(self._questions.get()), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait([question, stopping], return_when=asyncio.FIRST_COMPLETED)
            return None if draining.is_set() else question.result()
        finally:
            question.cancel()
            stopping.cancel()

    async def _answer_question(self, question: ChatRequestBody | ResumeRequest) -> None:
        if isinstance(question, ResumeRequest):
            caller = self._chat_service.guard.identify(self._facts)
            stream_id = question.stream_id
            reading = await self._chat_service.resume_reader(stream_id, caller, question.last_seq())
        else:
            caller = await self._chat_service.guard.admit(self._facts)
            request_id = self._socket.headers.get("x-client-request-id")
            stream = await self._chat_service.start_answer(question, caller, "websocket", request_id)
            stream_id = stream.id
            reading = await self._chat_service.first_reader(stream, question.resume)
        async with aclosing(reading):
            if reading.ended:
                await self._send_json({"type": "ended", "stream_id": stream_id})
                return
            stopper = asyncio.create_task(self._cancel_on_request(stream_id, caller))
            try:
                await self._send_events(reading, stream_id)
            finally:
                stopper.cancel()
                await asyncio.wait([stopper])

    async def _send_events(self, reading: EventReader, stream_id: str) -> None:
        send, prefix = self._socket.send_text, f'","id":"{stream_id}:'
        while not reading.ended:
            for seq, name, data in await reading.next_batch():
                fields = data[1:].decode()
                await send(f'{{"type":"{name}{prefix}{seq}"{"," if len(fields) > 1 else ""}{fields}')

    async def _cancel_on_request(self, stream_id: str, caller: str) -> None:
        await self._stop.wait()
        with suppress(StreamGoneError):
            await self._chat_service.cancel(stream_id, caller)

    async def _close_with_error(self, fault: BaseException) -> None:
        """Say in a last frame what was refused, or that this program has a defect, and close."""
        if isinstance(fault, RejectionError):
            self._chat_service.metrics.count_refusal(fault.rule)
            fields = error_body(fault.kind, fault.message, fault.rule, fault.retry_after_s)
            code, reason = _CLOSE_CODE_BY_RULE.get(fault.rule, POLICY_VIOLATION_CODE), fault.rule
        else:
            _log.error("a defect in a conversation", exc_info=fault)
            fields, code, reason = (
                error_body(INTERNAL_ERROR.kind, INTERNAL_ERROR.message),
                INTERNAL_ERROR_CODE,
                INTERNAL_ERROR.kind,
            )
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._send_json({"type": "error", **fields})
            await self._socket.close(code, reason)

    async def _send_json(self, fields: dict[str, Any]) -> None:
        await self._socket.send_text(orjson.dumps(fields).decode())


def _parse_frame(chat_service: ChatService, text: str) -> dict[str, Any]:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise RejectionError("validation.unicode", "invalid", "the frame is not valid Unicode") from None
    limits = chat_service.guard.configuration.limits
    check_size(len(data), limits)
    check_depth(data, limits)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as found:
        raise invalid_json_rejection(str(found)) from None
    if not isinstance(body, dict):
        raise RejectionError("body.fields", "invalid", "the frame must be a JSON object")
    return body
