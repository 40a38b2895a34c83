"""Decoding of an OpenAI-compatible server's bytes into an answer record, with the decoder of the evaluation.

The same bytes therefore have the same outcome, tokens and text in a load test and in an evaluation. Does not depend on
Locust.
"""

from collections.abc import Iterable

from answer_record import USAGE_FIELDS, AnswerRecord

from providers.decoding.decoder import StreamDecoder
from streaming.errors import StreamError
from streaming.events import Event, Finish, TextDelta, ThinkingDelta, Usage


def decode_chunks(decoder: StreamDecoder, chunks: Iterable[tuple[float, bytes]], answer: AnswerRecord) -> None:
    """Decode the chunks, pairs of timestamp and bytes; each event has the timestamp of its read."""
    for at_s, part in chunks:
        texts = 0
        try:
            for event in decoder.feed(part):
                _apply_event(at_s, event, answer)
                texts += isinstance(event, TextDelta)
        except StreamError as error:
            answer.on_failure(at_s, error.kind, error.message, error.http_status)
            return
        answer.merged_reads += texts > 1


def decode_end(decoder: StreamDecoder, at_s: float, answer: AnswerRecord) -> None:
    """Flush the decoder and record the end of the answer: a finish, or a truncated stream."""
    try:
        for event in decoder.flush():
            _apply_event(at_s, event, answer)
    except StreamError as error:
        answer.on_failure(at_s, error.kind, error.message, error.http_status)
    else:
        answer.mark_complete()


def _apply_event(at_s: float, event: Event, answer: AnswerRecord) -> None:
    if isinstance(event, TextDelta):
        answer.on_text(at_s, event.text)
    elif isinstance(event, ThinkingDelta):
        answer.on_thinking(at_s, event.text)
    elif isinstance(event, Finish):
        answer.on_finish(at_s, event.reason, event.raw)
    elif isinstance(event, Usage):
        answer.on_usage(at_s, {name: getattr(event, name) for name in USAGE_FIELDS})
