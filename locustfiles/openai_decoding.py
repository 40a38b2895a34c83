"""An OpenAI-compatible server's bytes read into an answer, by the decoder that the evaluation reads with.

So the same bytes come to the same outcome, the same tokens and the same text in a load test and in an evaluation.
Knows no Locust.
"""

from collections.abc import Iterable

from answer_record import USAGE_FIELDS, AnswerRecord

from providers.decoding.decoder import StreamDecoder
from streaming.errors import StreamError
from streaming.events import Event, Finish, TextDelta, ThinkingDelta, Usage


def decode_chunks(decoder: StreamDecoder, kept: Iterable[tuple[float, bytes]], answer: AnswerRecord) -> None:
    """Decode what was kept, each event at the moment of its read; `kept` are moments and bytes."""
    for at_s, part in kept:
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
    """Take what the decoder makes of the end of the bytes: a finish, or that the answer is cut."""
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
