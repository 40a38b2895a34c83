"""Users of `POST /api/chat`: Server-Sent Events. By hand: `locust -f locustfiles/sse_user.py -H http://HOST:PORT`.

The bytes are kept with their moments and read when the stream has ended, so that reading delays no other user.
"""

import json

import gevent
from answers import Answer, Frames
from http_exchange import HttpExchange, broke, refused
from load_reports import turns
from load_user import SLOW_PAUSE_S, Plan, Shape, StreamUser

from streaming.sse import Decoder

Read = tuple[float, bytes]

__all__ = ["Shape", "SseUser"]
"""What Locust finds here: it takes users and the shape from the file that it was given."""


class SseUser(StreamUser):
    """Reads an answer to its end marker, leaves half-way, or drops the line and takes the stream up where it was."""

    transport = "sse"

    def hear(self, answer: Answer, plan: Plan) -> None:
        """Ask and listen; after a dropped line once more."""
        frames = Frames(answer)
        headers = {**self.headers(answer), "accept": "text/event-stream"}
        with HttpExchange(
            self.url, f"{self.base}/api/chat", self.body(answer, plan), headers, **self.socket_options(plan)
        ) as exchange:
            exchange.note(answer)
            left = self._listen(exchange, frames, plan, plan.after if plan.cancel or plan.reconnect else None)
        if left and plan.cancel:
            answer.left()
        elif left:
            self._resume(answer, frames, plan, headers)

    def _resume(self, answer: Answer, frames: Frames, plan: Plan, headers: dict[str, str]) -> None:
        answer.resumed += 1
        target = f"{self.base}/api/chat/stream/{frames.stream_id}"
        again = {**headers, "last-event-id": f"{frames.stream_id}:{frames.last_seq}"}
        with HttpExchange(self.url, target, None, again, **self.socket_options(plan)) as exchange:
            self._listen(exchange, frames, plan, None)

    def _listen(self, exchange: HttpExchange, frames: Frames, plan: Plan, leave_after: int | None) -> bool:
        """Listen to the end, or until so many pieces came; say whether the user left before the end."""
        kept: list[Read] = []
        for read in exchange.reads():
            kept.append(read)
            if leave_after is not None and len(kept) > leave_after:
                break
            if plan.slow:
                gevent.sleep(SLOW_PAUSE_S)
        answer = frames.answer
        answer.stamp_source = exchange.socket.stamp_source
        if answer.headers_s is None and kept:
            answer.headers_s = kept[0][0]
        if exchange.status is not None and exchange.status != 204 and not exchange.is_stream:
            refused(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in kept))
            return False
        read_frames(kept, frames)
        left = leave_after is not None and len(kept) > leave_after and not frames.ended
        if not left and not frames.ended and exchange.fault is not None:
            broke(answer, exchange.socket.at_s, exchange.fault)
        elif not left:
            frames.over(exchange.socket.at_s)
        return left


def read_frames(kept: list[Read], frames: Frames) -> None:
    """Decode what was kept, each event at the moment of its read."""
    decoder = Decoder()
    with turns.sliced(kept) as reads:
        for at_s, part in reads:
            texts = 0
            for event in decoder.feed(part):
                name, fields = ("done", {}) if event.data == "[DONE]" else (event.event, json.loads(event.data))
                texts += name == "message"
                frames.take(at_s, "chunk" if name == "message" else name, fields, event.id)
            frames.answer.merged_reads += texts > 1
