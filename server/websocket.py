"""The wire over WebSocket: questions one after another on one socket, each answered in its turn."""

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard import Caller, Refusal, check_depth, check_size
from server.body import ChatBody, ResumeBody, not_json, unfit
from server.door import Door
from server.kept import Full, Gone
from server.refusals import error
from server.sse import Reading
from server.streams import DEFECT
from streaming.errors import UsageError

WAITING = 4
"""So many questions may wait for the one that is being answered."""
SUBPROTOCOL = "streamgauge"
POLICY, TOO_BIG, NOT_TEXT, BROKEN, RESTART = 1008, 1009, 1007, 1011, 1012

_log = logging.getLogger(__name__)
_CODES = {"validation.size": TOO_BIG, "body.json": NOT_TEXT, "validation.unicode": NOT_TEXT}


class Conversation:
    """One socket. What the guard refuses is told in a frame, and closes it."""

    def __init__(self, socket: WebSocket, door: Door) -> None:
        self._socket = socket
        self._door = door
        self._facts: Caller = socket.state.facts
        self._questions: asyncio.Queue[ChatBody | ResumeBody] = asyncio.Queue()
        self._unanswered = 0
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client leaves; what it did not want kept stops then."""
        offered = self._socket.scope["subprotocols"]
        await self._socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        work = [asyncio.create_task(part()) for part in (self._listen, self._work)]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
        for fault in [task.exception() for task in work if not task.cancelled()]:
            if fault is not None:
                await self._end(fault)
                return

    async def _listen(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            self._take(message)

    def _take(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise Refusal("body.json", "invalid", "send text frames with JSON in UTF-8 in them")
        body = _parsed(self._door, text)
        kind = body.pop("type", "message")
        if kind == "cancel":
            if self._unanswered:
                self._stop.set()
            return
        models: dict[Any, type[ChatBody | ResumeBody]] = {"message": ChatBody, "resume": ResumeBody}
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise Refusal("body.fields", "invalid", "`type` is message (the default), cancel or resume")
        try:
            question = model.model_validate(body)
        except ValidationError as found:
            raise unfit(found.errors()) from None
        if self._unanswered > WAITING:
            raise Refusal("busy", "rate_limited", f"{WAITING} questions wait already: let one end first")
        self._unanswered += 1
        self._questions.put_nowait(question)

    async def _work(self) -> None:
        with suppress(WebSocketDisconnect):
            while (question := await self._next()) is not None:
                try:
                    await self._answer(question)
                except UsageError as fault:
                    await self._say({"type": "error", **error("bad_request", str(fault))})
                except (Full, Gone) as fault:
                    kind = "unavailable" if isinstance(fault, Full) else "not_found"
                    await self._say({"type": "error", **error(kind, str(fault))})
                self._unanswered -= 1
                self._stop.clear()
            await self._socket.close(RESTART, "the service is stopping")

    async def _next(self) -> ChatBody | ResumeBody | None:
        """Wait for the next question; None when the service is stopping."""
        draining = self._door.streams.draining
        question, stopping = asyncio.create_task(self._questions.get()), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait([question, stopping], return_when=asyncio.FIRST_COMPLETED)
            return None if draining.is_set() else question.result()
        finally:
            question.cancel()
            stopping.cancel()

    async def _answer(self, question: ChatBody | ResumeBody) -> None:
        if isinstance(question, ResumeBody):
            caller = self._door.guard.identify(self._facts)
            stream_id = question.stream_id
            reading = await self._door.resumed(stream_id, caller, question.after())
        else:
            caller = await self._door.guard.enter(self._facts)
            request_id = self._socket.headers.get("x-client-request-id")
            stream = await self._door.ask(question, caller, "websocket", request_id)
            stream_id = stream.id
            reading = await self._door.reading(stream, question.resume)
        async with aclosing(reading):
            if reading.ended:
                await self._say({"type": "ended", "stream_id": stream_id})
                return
            stopper = asyncio.create_task(self._stop_when_asked(stream_id, caller))
            try:
                await self._send_all(reading, stream_id)
            finally:
                stopper.cancel()
                await asyncio.wait([stopper])

    async def _send_all(self, reading: Reading, stream_id: str) -> None:
        send, prefix = self._socket.send_text, f'","id":"{stream_id}:'
        while not reading.ended:
            for seq, name, data in await reading.batch():
                fields = data[1:].decode()
                await send(f'{{"type":"{name}{prefix}{seq}"{"," if len(fields) > 1 else ""}{fields}')

    async def _stop_when_asked(self, stream_id: str, caller: str) -> None:
        await self._stop.wait()
        with suppress(Gone):
            await self._door.cancel(stream_id, caller)

    async def _end(self, fault: BaseException) -> None:
        """Say in a last frame what was refused, or that this program has a defect, and close."""
        if isinstance(fault, Refusal):
            self._door.metrics.count_refusal(fault.rule)
            fields = error(fault.kind, fault.message, fault.rule, fault.retry_after_s)
            code, reason = _CODES.get(fault.rule, POLICY), fault.rule
        else:
            _log.error("a defect in a conversation", exc_info=fault)
            fields, code, reason = error(DEFECT.kind, DEFECT.message), BROKEN, DEFECT.kind
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._say({"type": "error", **fields})
            await self._socket.close(code, reason)

    async def _say(self, fields: dict[str, Any]) -> None:
        await self._socket.send_text(orjson.dumps(fields).decode())


def _parsed(door: Door, text: str) -> dict[str, Any]:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Refusal("validation.unicode", "invalid", "the frame is not valid Unicode") from None
    limits = door.guard.configuration.limits
    check_size(len(data), limits)
    check_depth(data, limits)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as found:
        raise not_json(str(found)) from None
    if not isinstance(body, dict):
        raise Refusal("body.fields", "invalid", "the frame must be a JSON object")
    return body
