"""An OpenAI-compatible server's bytes read into an answer, by the decoder that the evaluation reads with.

So the same bytes come to the same outcome, the same tokens and the same text in a load test and in an evaluation.
Knows no Locust.
"""

from collections.abc import Iterable

from answers import TOKENS, Answer

from providers.wire import Decoder
from streaming.errors import StreamError
from streaming.events import Event, Finish, TextDelta, ThinkingDelta, Usage


def read_chunks(decoder: Decoder, kept: Iterable[tuple[float, bytes]], answer: Answer) -> None:
    """Decode what was kept, each event at the moment of its read; `kept` are moments and bytes."""
    for at_s, part in kept:
        texts = 0
        try:
            for event in decoder.feed(part):
                _take(at_s, event, answer)
                texts += isinstance(event, TextDelta)
        except StreamError as error:
            answer.failed(at_s, error.kind, error.message, error.http_status)
            return
        answer.merged_reads += texts > 1


def read_end(decoder: Decoder, at_s: float, answer: Answer) -> None:
    """Take what the decoder makes of the end of the bytes: a finish, or that the answer is cut."""
    try:
        for event in decoder.flush():
            _take(at_s, event, answer)
    except StreamError as error:
        answer.failed(at_s, error.kind, error.message, error.http_status)
    else:
        answer.complete()


def _take(at_s: float, event: Event, answer: Answer) -> None:
    if isinstance(event, TextDelta):
        answer.text(at_s, event.text)
    elif isinstance(event, ThinkingDelta):
        answer.thinking(at_s, event.text)
    elif isinstance(event, Finish):
        answer.finished(at_s, event.reason, event.raw)
    elif isinstance(event, Usage):
        answer.used(at_s, {name: getattr(event, name) for name in TOKENS})
