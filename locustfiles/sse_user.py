"""Users of `POST /api/chat`, the SSE transport.

Run it directly: `locust -f locustfiles/sse_user.py -H http://HOST:PORT`. The bytes are stored with their timestamps and
decoded after the stream has ended, so that decoding does not delay the reads of other users.
"""

import gevent
import repository_path  # noqa: F401  importing it is what it is for
from answer_record import AnswerRecord, AnswerRecorder
from base_user import SLOW_PAUSE_S, LoadShape, RequestPlan, StreamUser
from http_exchange import HttpExchange, record_error, record_rejection
from result_collector import turns

from streaming.sse import Decoder

TimedChunk = tuple[float, bytes]

__all__ = ["LoadShape", "SseUser"]
"""Locust takes the users and the load shape from the names in this file."""


class SseUser(StreamUser):
    """A user that reads an answer to its end marker, leaves half-way, or drops the connection and resumes."""

    transport = "sse"

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the request and record the answer; after a dropped connection, resume it once."""
        frames = AnswerRecorder(answer)
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
        self, answer: AnswerRecord, frames: AnswerRecorder, plan: RequestPlan, headers: dict[str, str]
    ) -> None:
        answer.resumed += 1
        target = f"{self.base}/api/chat/stream/{frames.position.stream_id}"
        again = {**headers, "last-event-id": frames.position.last_id or ""}
        with HttpExchange(self.url, target, None, again, **self.socket_options(plan)) as exchange:
            self._read_stream(exchange, frames, plan, None)

    def _read_stream(
        self, exchange: HttpExchange, frames: AnswerRecorder, plan: RequestPlan, leave_after: int | None
    ) -> bool:
        """Read to the end, or until `leave_after` pieces; return whether the user left before the end."""
        chunks: list[TimedChunk] = []
        for read in exchange.iter_chunks_safe():
            chunks.append(read)
            if leave_after is not None and len(chunks) > leave_after:
                break
            if plan.slow:
                gevent.sleep(SLOW_PAUSE_S)
        answer = frames.answer
        answer.stamp_source = exchange.socket.stamp_source
        if answer.headers_s is None and chunks:
            answer.headers_s = chunks[0][0]
        if exchange.status is not None and exchange.status != 204 and not exchange.is_stream:
            record_rejection(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in chunks))
            return False
        decode_events(chunks, frames)
        left = leave_after is not None and len(chunks) > leave_after and not frames.ended
        if not left and not frames.ended and exchange.fault is not None:
            record_error(answer, exchange.socket.at_s, exchange.fault)
        elif not left:
            frames.finish(exchange.socket.at_s)
        return left


def decode_events(chunks: list[TimedChunk], frames: AnswerRecorder) -> None:
    """Decode the chunks; each event has the timestamp of its read."""
    decoder = Decoder()
    with turns.slices(chunks) as reads:
        for at_s, part in reads:
            texts = sum(frames.record_sse(at_s, event) for event in decoder.feed(part))
            frames.answer.merged_reads += texts > 1
