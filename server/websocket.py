"""The wire over WebSocket: questions one after another on one socket, each answered in its turn."""

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard import Caller, Refusal, check_depth, check_size
from server.body import ChatBody, ResumeBody, faults
from server.door import Door
from server.kept import Full, Gone
from server.refusals import error
from server.sse import Reading
from streaming.errors import UsageError

WAITING = 4
"""So many questions may wait for the one that is being answered."""
SUBPROTOCOL = "streamgauge"
POLICY, TOO_BIG, NOT_TEXT, RESTART = 1008, 1009, 1007, 1012

_CODES = {"validation.size": TOO_BIG, "body.json": NOT_TEXT, "body.unicode": NOT_TEXT}


class Conversation:
    """One socket. What the guard refuses is told in a frame, and closes it."""

    def __init__(self, socket: WebSocket, door: Door) -> None:
        self._socket = socket
        self._door = door
        self._facts: Caller = socket.state.facts
        self._questions: asyncio.Queue[ChatBody | ResumeBody] = asyncio.Queue(WAITING)
        self._answering = False
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client leaves; what it did not want kept stops then."""
        offered = self._socket.scope["subprotocols"]
        await self._socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        worker = asyncio.create_task(self._work())
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self._take(message)
        except Refusal as refusal:
            await self._refuse(refusal)
        finally:
            worker.cancel()
            await asyncio.wait([worker])

    async def _take(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            raise Refusal("body.json", "invalid", "send text frames with JSON in them")
        body = _parsed(self._door, text)
        kind = body.pop("type", "message")
        if kind == "cancel":
            if self._answering:
                self._stop.set()
            return
        models: dict[Any, type[ChatBody | ResumeBody]] = {"message": ChatBody, "resume": ResumeBody}
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise Refusal("body.fields", "invalid", "`type` is message (the default), cancel or resume")
        try:
            self._questions.put_nowait(model.model_validate(body))
        except ValidationError as found:
            raise Refusal("body.fields", "invalid", faults(found.errors())) from None
        except asyncio.QueueFull:
            raise Refusal("busy", "rate_limited", f"{WAITING} questions wait already: let one end first") from None

    async def _work(self) -> None:
        with suppress(WebSocketDisconnect):
            while (question := await self._next()) is not None:
                self._answering = True
                try:
                    await self._answer(question)
                except Refusal as refusal:
                    await self._refuse(refusal)
                    return
                except (UsageError, Full, Gone) as fault:
                    kind = {UsageError: "bad_request", Full: "unavailable", Gone: "not_found"}[type(fault)]
                    await self._say({"type": "error", **error(kind, str(fault))})
                self._answering = False
                self._stop.clear()
            await self._socket.close(RESTART, "the service is stopping")

    async def _next(self) -> ChatBody | ResumeBody | None:
        """Wait for the next question; None when the service is stopping."""
        waiting = [asyncio.create_task(self._questions.get()), asyncio.create_task(self._door.streams.draining.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return waiting[0].result() if waiting[0].done() else None  # type: ignore[return-value]  # the other's is True
        finally:
            for task in waiting:
                task.cancel()

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

    async def _refuse(self, refusal: Refusal) -> None:
        self._door.metrics.refusals.labels(refusal.rule).inc()
        fields = error(refusal.kind, refusal.message, refusal.rule, refusal.retry_after_s)
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._say({"type": "error", **fields})
            await self._socket.close(_CODES.get(refusal.rule, POLICY), refusal.rule)

    async def _say(self, fields: dict[str, Any]) -> None:
        await self._socket.send_text(orjson.dumps(fields).decode())


def _parsed(door: Door, text: str) -> dict[str, Any]:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Refusal("body.unicode", "invalid", "the frame is not valid Unicode") from None
    limits = door.guard.configuration.limits
    check_size(len(data), limits)
    check_depth(data, limits)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Refusal("body.json", "invalid", "the frame is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal("body.fields", "invalid", "the frame must be a JSON object")
    return body
