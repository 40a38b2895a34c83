"""The pace strategy: releases words at an even reading speed, with a limit on how long a word is held."""

import math
import re
from collections import deque

from streaming.events import Event, Failed, Finish, TextDelta, ThinkingDelta
from streaming.meter import CHARS_PER_TOKEN

MAX_HOLD_S = 2.0
_TARGET_BACKLOG_S = 1.5
_MAX_WORD_CHARS = 100
_UNSPACED_CHARS = "\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
"""Characters of scripts written without spaces (CJK with its punctuation, kana); each counts as a word."""
_WORD = re.compile(rf"[{_UNSPACED_CHARS}]|\s+|[^\s{_UNSPACED_CHARS}]+\s?")
_UNSPACED_CHAR = re.compile(f"[{_UNSPACED_CHARS}]")


class Pace:
    """The strategy that releases words at an even speed: `tokens_per_s`, with 4 characters per token.

    The speed rises with the backlog, so that each word is released at most about 1.5 s after its arrival and none is
    held longer than 2 s. A word whose end has not arrived waits for it within the same limit, up to 100 characters.
    Thinking keeps its position in the order and is not paced.
    """

    max_hold_s = MAX_HOLD_S

    def __init__(self, tokens_per_s: float) -> None:
        self.name = f"pace:{tokens_per_s:g}tps"
        self.wake_at: float | None = None
        self._chars_per_s = tokens_per_s * CHARS_PER_TOKEN
        self._queue: deque[tuple[float, str | ThinkingDelta | Finish | Failed]] = deque()
        self._backlog_chars = 0
        self._newest_s = 0.0
        self._tail = ""
        self._tail_s = 0.0
        self._next_s = -math.inf

    def feed(self, event: Event, now: float) -> list[Event]:
        waiting = bool(self._queue)
        if isinstance(event, TextDelta):
            self._add_text(event.text, now)
        elif isinstance(event, (ThinkingDelta, Finish, Failed)):
            self._flush_tail()
            self._queue.append((now, event))
        else:
            return [event]
        return [] if waiting else self._release(now)

    def wake(self, now: float) -> list[Event]:
        if self._tail and now >= self._tail_s + MAX_HOLD_S:
            self._flush_tail()
        return self._release(now)

    def _add_text(self, text: str, now: float) -> None:
        words = _WORD.findall(self._tail + text)
        arrived_s = self._tail_s if self._tail else now
        last = words[-1]
        complete = last[-1].isspace() or len(last) > _MAX_WORD_CHARS or _UNSPACED_CHAR.match(last)
        self._tail = "" if complete else words.pop()
        self._tail_s = now if words else arrived_s
        self._newest_s = now
        for word in words:
            self._queue_word(word, arrived_s)
            arrived_s = now

    def _flush_tail(self) -> None:
        if self._tail:
            self._queue_word(self._tail, self._tail_s)
            self._tail = ""

    def _queue_word(self, word: str, arrived_s: float) -> None:
        self._queue.append((arrived_s, word))
        self._backlog_chars += len(word)

    def _release(self, now: float) -> list[Event]:
        queue = self._queue
        out: list[Event] = []
        words: list[str] = []
        self.wake_at = self._tail_s + MAX_HOLD_S if self._tail else None
        while queue:
            arrived_s, item = queue[0]
            if isinstance(item, str):
                due_s = self._compute_due_s(arrived_s)
                if due_s > now:
                    self.wake_at = due_s
                    break
                words.append(item)
                self._advance_schedule(len(item), due_s)
            else:
                out += [*_join_words(words), item]
                words = []
            queue.popleft()
        out += _join_words(words)
        return out

    def _compute_due_s(self, arrived_s: float) -> float:
        if self._next_s < arrived_s:
            return arrived_s
        limit_s = arrived_s + MAX_HOLD_S
        return self._next_s if self._next_s < limit_s else limit_s

    def _advance_schedule(self, chars: int, at_s: float) -> None:
        left_s = self._newest_s + _TARGET_BACKLOG_S - at_s
        needed = self._backlog_chars / left_s if left_s > 0.001 else self._backlog_chars * 1000.0
        self._next_s = at_s + chars / (needed if needed > self._chars_per_s else self._chars_per_s)
        self._backlog_chars -= chars


def _join_words(words: list[str]) -> list[Event]:
    return [TextDelta("".join(words))] if words else []
