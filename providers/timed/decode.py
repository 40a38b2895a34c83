"""Decoding of recorded bytes to events. Each event has the timestamp of the read that completed it.

The events are those that a session without retries and fallbacks would yield over the live adapter, but their
timestamps are those of the socket reads. A time limit that expired ends the answer at the time of its expiry, whatever
arrived later.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from providers.http.client import END_OF_STREAM_GRACE_S, connected_notice, find_request_id, raise_for_html
from providers.http.compression import decompressor
from providers.http.errors import error_from_response, too_large_error
from providers.http.transport_errors import transport_error
from providers.timed.serialized_request import SerializedRequest
from streaming.decompression import DecompressionError, Decompressor
from streaming.errors import (
    FirstContentTimeout,
    IdleTimeout,
    InternalError,
    StreamError,
    StreamTimeout,
    TotalTimeout,
)
from streaming.events import Event, Failed, Finish, TextDelta, ThinkingDelta, TimedEvent
from streaming.http.close_reason import CloseReason
from streaming.http.timed_exchange import TimedExchange
from streaming.limits import LimitExceededError, max_body_bytes, size_text

_log = logging.getLogger(__name__)


class ExchangeDecoder:
    """A decoder of an exchange that is still growing: call `decode_next` repeatedly and `finish` after its end.

    After `finish`, `events` ends in one `Finish` or `Failed`, unless the caller left the exchange before its answer had
    ended.
    """

    def __init__(self, exchange: TimedExchange, sent: SerializedRequest) -> None:
        self.events: list[TimedEvent] = []
        self.ended = False
        self.error: StreamError | None = None
        """The error that ended the answer, if one did."""
        self.over_s: float | None = None
        """The timestamp of the read that completed the dialect's end marker."""
        self._exchange, self._sent, self._service = exchange, sent, sent.service
        self._decoder = sent.decoder()
        self._codec: Decompressor | None = None
        self._reads_done = 0
        self._begun = self._rejected = self._content = False
        limits = self._service.timeouts
        begun_s = exchange.queued_s if exchange.begun_s is None else exchange.begun_s
        self._total_due_s = begun_s + limits.total_s
        self.due_s = min(begun_s + limits.first_content_s, self._total_due_s)
        """The time at which the current limit expires, as far as the exchange has been decoded."""
        if not sent.streamed:
            self.due_s = self._total_due_s

    @property
    def has_pending(self) -> bool:
        """Whether the exchange has reads that are not decoded yet."""
        return not self.ended and self._reads_done < len(self._exchange.reads)

    def decode_next(self, reads: int) -> None:
        """Decode at most `reads` further reads."""
        if not self._begun and self._exchange.headers_s is not None:
            self._begun = True
            self._add_events(self._read_head(), self._exchange.headers_s)
        for read in self._exchange.reads[self._reads_done : self._reads_done + reads]:
            if self.ended:
                return
            self._reads_done += 1
            if self._rejected or (self.over_s is not None and read.at_s > self.over_s + END_OF_STREAM_GRACE_S):
                continue
            self._add_events(self._decode_data(read.data), read.at_s)
            if self.over_s is None and self._decoder.done:
                self.over_s = read.at_s

    def finish(self) -> None:
        """Decode the rest of an exchange that has ended, and add the terminal event."""
        exchange = self._exchange
        self.decode_next(len(exchange.reads))
        if self.ended or exchange.ended_s is None:
            return
        end_s = exchange.ended_s
        if self.over_s is not None and not self._rejected:
            # The answer ended there, however long the connection stays open.
            end_s = self.over_s
        if exchange.ending != CloseReason.LEFT or self.over_s is not None or end_s >= self.due_s:
            self._add_events(self._decode_end(), end_s)

    def _add_events(self, events: Iterable[Event], at_s: float) -> None:
        """Add events with their timestamp. An error, or a limit that expired before `at_s`, ends the answer."""
        if at_s >= self.due_s:
            self._add_failure(self._timeout_error(), self.due_s)
            return
        try:
            for event in events:
                self.events.append(TimedEvent(at_s, event))
                self._content = self._content or isinstance(event, (TextDelta, ThinkingDelta))
                self.ended = isinstance(event, Finish)
                if self._content and self._sent.streamed:
                    self.due_s = min(at_s + self._service.timeouts.idle_s, self._total_due_s)
        except StreamError as error:
            self._add_failure(error, at_s)
        except Exception as defect:
            _log.exception("internal error in %s", self._service.names.label)
            self._add_failure(
                InternalError(f"internal error: {type(defect).__name__} (the log has the traceback)"), at_s
            )

    def _add_failure(self, error: StreamError, at_s: float) -> None:
        # The message of a rejection may quote an API key.
        self.error = error.with_message(self._service.mask(error.message))
        failed = Failed(error.kind, self.error.message, error.http_status)
        self.events.append(TimedEvent(at_s, failed))
        self.ended = True

    def _read_head(self) -> Iterator[Event]:
        head = self._exchange.response_head
        assert head is not None  # the headers came
        self._rejected = not 200 <= head.status < 300
        try:
            self._codec = decompressor(head.headers.get("content-encoding", ""), max_body_bytes(head.status))
        except DecompressionError as error:
            if not self._rejected:
                raise self._decompression_error(error) from None
        if not self._rejected:
            yield connected_notice(self._service, find_request_id(head.headers))
            for notice in self._sent.notices:
                yield replace(notice, message=self._service.mask(notice.message))
            raise_for_html(head.headers.get("content-type", ""), self._service)

    def _decode_data(self, data: bytes) -> Iterator[Event]:
        if self._codec is None:
            yield from self._decoder.feed(data)
            return
        for piece in self._inflate_data(data):
            yield from self._decoder.feed(piece)

    def _inflate_data(self, data: bytes) -> Iterator[bytes]:
        if self._codec is None:
            yield data
            return
        try:
            yield from self._codec.feed(data)
        except DecompressionError as error:
            raise self._decompression_error(error) from None
        except LimitExceededError as error:
            raise self._size_error(error) from None

    def _rejection_body(self, status: int) -> bytes:
        """Return the decompressed body of an unsuccessful response. Raises StreamError."""
        body = b"".join(piece for read in self._exchange.reads for piece in self._inflate_data(read.data))
        if len(body) > (limit := max_body_bytes(status)):
            raise self._size_error(LimitExceededError(f"error body (status {status}): larger than {size_text(limit)}"))
        return body

    def _decode_end(self) -> Iterator[Event]:
        exchange, head = self._exchange, self._exchange.response_head
        if head is not None and self._rejected:
            body = self._rejection_body(head.status).decode(errors="replace")
            raise error_from_response(self._service.names, self._sent.model, head.status, head.headers, body)
        if exchange.ending != CloseReason.COMPLETE and self.over_s is None:
            raise transport_error(exchange.ending, exchange.fault, self._service, answered=head is not None)
        yield from self._decoder.flush()

    def _decompression_error(self, fault: DecompressionError) -> StreamError:
        return transport_error(CloseReason.UNDECODABLE, fault, self._service, answered=True)

    def _size_error(self, fault: LimitExceededError) -> StreamError:
        return too_large_error(self._service.names.label, str(fault))

    def _timeout_error(self) -> StreamTimeout:
        limits = self._service.timeouts
        if self.due_s >= self._total_due_s:
            return TotalTimeout(f"answer: not complete within {limits.total_s:g} s (request fewer max tokens)")
        if self._content:
            return IdleTimeout(f"answer: no more content for {limits.idle_s:g} s (try again)")
        return FirstContentTimeout(f"answer: no content within {limits.first_content_s:g} s (try again)")
