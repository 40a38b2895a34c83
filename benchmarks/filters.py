"""The cost of the guard: its output filter per chunk, compared with passing events on, and its slowest messages.

Run as `python -m benchmarks.filters`. Times are CPU time of the fastest round, since other work can only add time.
"""

import json
import time
from collections.abc import Callable
from typing import Protocol

from guard import Guard, GuardConfig, RejectionError
from guard.output_filter import OutputFilter
from guard.secret_patterns import SECRET_PATTERNS, Patterns
from guard.validation import MAX_MESSAGE_CHARS, InputLimits
from streaming.events import Event, TextDelta
from streaming.messages import Message

CHUNK_CHARS = 8
CHUNKS = 20_000
ROUNDS = 5
TARGET_US = 3.0
"""The highest acceptable cost of an ordinary chunk, in microseconds."""
TARGET_MS = 50.0
"""The highest acceptable cost of any message of 4,000 characters, in milliseconds."""

PROSE = (
    "The stream begins as soon as the model has said something, and each piece is passed on at once. A good half of "
    "the answers have 3 or 4 paragraphs; some have a list - short, as here - and a few have code such as `x = 12`.\n"
)
CYRILLIC = "Ответ приходит по частям, и каждая часть передаётся сразу, как только модель её напишет. "
TERMS = [
    f"{first} {second}" for first in ("secret", "hidden", "internal") for second in ("name", "plan", "code", "date")
]
QUESTIONS = {
    "quotes": "'",
    "tags": "<a ",
    "entities": "&#",
    "javascript": "javascript:",
    "tautologies": "' or ",
    "unions": "union select ",
    "statements": "'; delete from ",
    "comments": "/*",
    "asking": "how to ",
    "ligatures": "\ufdfa",
    "marks": "a\u0301\u200b",
    "letters": "b o ",
    "prose": PROSE,
}


class BenchmarkedFilter(Protocol):
    """A filter that every event passes through."""

    def feed(self, event: Event) -> list[Event]:
        """Return the events to pass on after this event."""


class IdentityFilter:
    """The baseline: a filter that passes every event on."""

    def feed(self, event: Event) -> list[Event]:
        """Return the event unchanged."""
        return [event]


def best_of_s(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest round."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        work()
        times.append(time.process_time() - began_s)
    return min(times)


def time_chunk_us(make: Callable[[], BenchmarkedFilter], text: str) -> float:
    """Return the microseconds per chunk of an answer that repeats `text`."""
    long = text * (CHUNKS * CHUNK_CHARS // len(text) + 1)
    events = [TextDelta(long[i * CHUNK_CHARS : (i + 1) * CHUNK_CHARS]) for i in range(CHUNKS)]

    def feed_all() -> None:
        feed = make().feed
        for event in events:
            feed(event)

    return best_of_s(feed_all) / CHUNKS * 1e6


def time_question_ms(guard: Guard, piece: str, chars: int = 4_000) -> float:
    """Return the milliseconds to clean or reject a message of `chars` characters that repeats `piece`."""
    messages = [Message("user", (piece * chars)[:chars])]

    def validate_question() -> None:
        try:
            guard.validate_messages(messages)
        except RejectionError:
            return

    return best_of_s(validate_question) * 1e3


def main() -> None:
    """Print a line for each case, and a JSON object as the last line."""
    secrets, terms = Patterns([], SECRET_PATTERNS), Patterns(TERMS, SECRET_PATTERNS)
    makes: dict[str, Callable[[], BenchmarkedFilter]] = {
        "passing on": IdentityFilter,
        "secrets": lambda: OutputFilter(secrets),
        "secrets and terms": lambda: OutputFilter(terms),
    }
    chunks = {}
    for text_name, text in (("English", PROSE), ("Russian", CYRILLIC), ("digits", "4111 1111 1111 1112 ")):
        for name, make in makes.items():
            took_us = chunks[f"{name}, {text_name}"] = round(time_chunk_us(make, text), 2)
            print(f"{name:>18}, {text_name:<8} {took_us:6.2f} µs for a chunk of {CHUNK_CHARS} characters")
    guard = Guard(GuardConfig(limits=InputLimits(off=frozenset())))
    questions = {name: round(time_question_ms(guard, piece), 2) for name, piece in QUESTIONS.items()}
    for name, took_ms in questions.items():
        print(f"{name:>18} {took_ms:6.2f} ms for a question of 4,000 characters")
    longest_ms = round(max(time_question_ms(guard, piece, MAX_MESSAGE_CHARS) for piece in QUESTIONS.values()), 2)
    print(f"{'the worst':>18} {longest_ms:6.2f} ms for a question of {MAX_MESSAGE_CHARS:,} characters")
    ordinary_us, worst_ms = chunks["secrets, English"], max(questions.values())
    met = ordinary_us <= TARGET_US and worst_ms <= TARGET_MS
    print(
        json.dumps(
            {
                "benchmark": "filters",
                "chunk_us": ordinary_us,
                "worst_question_ms": worst_ms,
                "worst_longest_question_ms": longest_ms,
                "met": met,
            }
        )
    )


if __name__ == "__main__":
    main()
