"""Users of `/api/chat/ws`, the WebSocket transport: each user has one socket for all its requests.

Run it directly: `locust -f locustfiles/websocket_user.py -H http://HOST:PORT`. The frames have the timestamps of the
socket underneath the WebSocket library, not of the library's return.
"""

import json
from contextlib import suppress
from typing import Any

import gevent
import repository_path  # noqa: F401  importing it is what it is for
from answer_record import AnswerRecord, AnswerRecorder
from base_user import SLOW_PAUSE_S, LoadShape, RequestPlan, StreamUser
from http_exchange import ERRORS, record_error, record_rejection
from timestamped_socket import GeventTimestampedSocket
from websocket import WebSocket, WebSocketBadStatusException, WebSocketException, WebSocketTimeoutException

from streaming.clock import monotonic
from streaming.limits import MAX_EVENT_BYTES, MAX_HEAD_BYTES

__all__ = ["LoadShape", "WebSocketUser"]
"""Locust takes the users and the load shape from the names in this file."""


class WebSocketUser(StreamUser):
    """A user that reads each answer to its end, sends `cancel` half-way, or drops the socket and resumes."""

    transport = "websocket"

    def on_start(self) -> None:
        """Start without a connection; the first request connects."""
        self.socket: GeventTimestampedSocket | None = None
        self.wire: WebSocket | None = None

    def on_stop(self) -> None:
        """Close the socket if it is open."""
        self._drop_socket()

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the request and record the answer; after a dropped socket, resume it once."""
        frames = AnswerRecorder(answer)
        try:
            self._send_request(answer, plan)
            if self._read_answer(frames, plan, plan.after if plan.reconnect else None):
                self._drop_socket()
                answer.resumed += 1
                self._connect(answer, plan)
                self._send_frame(
                    {"type": "resume", "stream_id": frames.position.stream_id, "last_id": frames.position.seq}
                )
                self._read_answer(frames, plan, None)
        except WebSocketBadStatusException as error:
            record_rejection(answer, monotonic(), error.status_code, error.resp_body or b"")
        except WebSocketTimeoutException:
            record_error(answer, monotonic(), TimeoutError())
        except WebSocketException:
            frames.finish(monotonic())
        except ERRORS as error:
            record_error(answer, monotonic(), error)
        if not frames.ended or plan.slow or answer.failure_reason is not None:
            self._drop_socket()

    def _send_request(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the request, on a new socket if there is none."""
        if self.wire is None or plan.slow:
            self._drop_socket()
            answer.connect_s = self._connect(answer, plan)
        self._send_frame(self.body(answer, plan))
        assert self.socket is not None
        answer.sent_s, answer.peer_address = self.socket.sent_s, self.socket.peer_address

    def _connect(self, answer: AnswerRecord, plan: RequestPlan) -> float:
        """Open a socket with its WebSocket handshake, and return how long that took in seconds."""
        begun_s = monotonic()
        scheme = {"https": "wss", "http": "ws"}.get(self.url.scheme, self.url.scheme)
        self.socket = GeventTimestampedSocket(self.url, **self.socket_options(plan))
        self.wire = WebSocket(enable_multithread=False, skip_utf8_validation=True)
        headers = [f"{name}: {value}" for name, value in self.headers(answer).items()]
        self.socket.allow(MAX_HEAD_BYTES)
        address = f"{scheme}://{self.url.netloc}{self.base}/api/chat/ws"
        self.wire.connect(address, socket=self.socket, header=headers, timeout=self.options.idle_s)
        return monotonic() - begun_s

    def _send_frame(self, frame: dict[str, Any]) -> None:
        assert self.wire is not None
        self.wire.send(json.dumps(frame))

    def _read_answer(self, frames: AnswerRecorder, plan: RequestPlan, leave_after: int | None) -> bool:
        """Read to the answer's last frame, or for `leave_after` frames; return whether to drop the socket now."""
        assert self.wire is not None and self.socket is not None
        frame_count, cancelled, last_text_s = 0, False, 0.0
        while not frames.ended:
            self.socket.allow(MAX_EVENT_BYTES + MAX_HEAD_BYTES)  # includes pings and frame headers
            message = self.wire.recv()
            at_s = self.socket.at_s
            frame_count += 1
            if frames.record_frame(at_s, message):
                # Of frames that one read returns, only the last has an exact timestamp.
                frames.answer.merged_reads += at_s == last_text_s
                last_text_s = at_s
            has_left = leave_after is not None and frame_count > leave_after
            if has_left and frames.position.stream_id is not None and not frames.ended:
                return True
            if plan.cancel and not cancelled and frame_count > plan.after and not frames.ended:
                cancelled = True
                self._send_frame({"type": "cancel"})
            if plan.slow:
                gevent.sleep(SLOW_PAUSE_S)
        frames.answer.stamp_source = self.socket.stamp_source
        return False

    def _drop_socket(self) -> None:
        """Close the socket without a close frame, as a lost connection does."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close()
        self.socket = self.wire = None
