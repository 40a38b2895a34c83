"""Users of `POST /api/chat`: Server-Sent Events. By hand: `locust -f locustfiles/sse_user.py -H http://HOST:PORT`.

The bytes are kept with their moments and read when the stream has ended, so that reading delays no other user.
"""

import json

import gevent
from answer_record import AnswerRecord, WireEventReader
from base_user import SLOW_PAUSE_S, LoadShape, RequestPlan, StreamUser
from http_exchange import HttpExchange, record_error, record_rejection
from result_collector import turns

from streaming.sse import Decoder

TimedChunk = tuple[float, bytes]

__all__ = ["LoadShape", "SseUser"]
"""What Locust finds here: it takes users and the shape from the file that it was given."""


class SseUser(StreamUser):
    """Reads an answer to its end marker, leaves half-way, or drops the line and takes the stream up where it was."""

    transport = "sse"

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Ask and listen; after a dropped line once more."""
        frames = WireEventReader(answer)
        headers = {**self.headers(answer), "accept": "text/event-stream"}
        with HttpExchange(
            self.url, f"{self.base}/api/chat", self.body(answer, plan), headers, **self.socket_options(plan)
        ) as exchange:
            exchange.record_timings(answer)
            left = self._read_stream(exchange, frames, plan, plan.after if plan.cancel or plan.reconnect else None)
        if left and plan.cancel:
            answer.mark_cancelled()
        elif left:
            self._resume_stream(answer, frames, plan, headers)

    def _resume_stream(
        self, answer: AnswerRecord, frames: WireEventReader, plan: RequestPlan, headers: dict[str, str]
    ) -> None:
        answer.resumed += 1
        target = f"{self.base}/api/chat/stream/{frames.stream_id}"
        again = {**headers, "last-event-id": f"{frames.stream_id}:{frames.last_seq}"}
        with HttpExchange(self.url, target, None, again, **self.socket_options(plan)) as exchange:
            self._read_stream(exchange, frames, plan, None)

    def _read_stream(
        self, exchange: HttpExchange, frames: WireEventReader, plan: RequestPlan, leave_after: int | None
    ) -> bool:
        """Listen to the end, or until so many pieces came; say whether the user left before the end."""
        kept: list[TimedChunk] = []
        for read in exchange.iter_chunks_safe():
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
            record_rejection(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in kept))
            return False
        decode_events(kept, frames)
        left = leave_after is not None and len(kept) > leave_after and not frames.ended
        if not left and not frames.ended and exchange.fault is not None:
            record_error(answer, exchange.socket.at_s, exchange.fault)
        elif not left:
            frames.finish(exchange.socket.at_s)
        return left


def decode_events(kept: list[TimedChunk], frames: WireEventReader) -> None:
    """Decode what was kept, each event at the moment of its read."""
    decoder = Decoder()
    with turns.slices(kept) as reads:
        for at_s, part in reads:
            texts = 0
            for event in decoder.feed(part):
                name, fields = ("done", {}) if event.data == "[DONE]" else (event.event, json.loads(event.data))
                texts += name == "message"
                frames.feed(at_s, "chunk" if name == "message" else name, fields, event.id)
            frames.answer.merged_reads += texts > 1
