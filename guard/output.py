"""The output filter: banned terms and secrets are replaced while the answer streams, however it is cut into chunks.

What comes out hangs on the text alone, not on its chunks. Only text that may be the beginning of something banned is
held back, at most `TERM_CHARS` visible characters of it; all other text goes on at once, unchanged to the byte. The one
exception: after `INVISIBLE_RUN` characters in a row that show nothing (joiners, marks), more of them are dropped, so
that nobody can make the filter hold without end. Emoji use a few.

Text and thinking are two texts. Thinking is over, for what it held, when text comes: a reader sees it first. Nothing
else splits a term in two: text is held over thinking, and an event that is neither passes at once.
"""

import re
from dataclasses import replace

from guard.folding import FOLDS
from guard.shapes import Patterns, luhn
from streaming.events import TERMINAL, Event, Failed, Notice, TextDelta, ThinkingDelta

MARK = "[removed]"
INVISIBLE_RUN = 64
_INVISIBLE_ASCII = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search


class Redactor:
    """Takes one text out of its chunks; feed / flush."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._search = patterns.search
        self._held = ""
        self._before = ""  # the last folded character before what is held: a token does not begin inside a word
        self._tail: re.Pattern[str] | None = None  # the class of a secret that was found and may go on
        self._invisible = 0

    @property
    def holds(self) -> bool:
        return self._held != ""

    def feed(self, text: str) -> str:
        """Take a chunk; give what may go on now, the chunk itself in the common case."""
        if self._held or self._tail is not None:
            return self._scan(self._thinned(text), last=False)
        if text.isascii() and (text.isprintable() or not _INVISIBLE_ASCII(text)):
            seen = self._before + text.lower()
        else:
            folds = [FOLDS[char] for char in text]
            if "" in folds:
                return self._scan(self._thinned(text), last=False)
            seen = self._before + "".join(folds)
        if self._search(seen, len(self._before)) is not None:
            return self._scan(self._thinned(text), last=False)
        self._before = seen[-1:]
        self._invisible = 0
        return text

    def flush(self) -> str:
        """The text is over: give what was held back, as far as it is not banned."""
        return self._scan("", last=True)

    def _thinned(self, text: str) -> str:
        """Drop what follows too long a run of invisible characters."""
        kept = []
        for char in text:
            self._invisible = 0 if FOLDS[char] else self._invisible + 1
            if self._invisible <= INVISIBLE_RUN:
                kept.append(char)
        return "".join(kept)

    def _scan(self, text: str, last: bool) -> str:
        view = _View(self._before, self._held + text)
        at, out = self._past_tail(view), []
        search = self._patterns.search_last if last else self._patterns.search
        cut = len(view.raw)
        position = view.folded_from(at)
        while (match := search(view.seen, position)) is not None:
            name = self._patterns.found(match)
            if name is None:
                cut = view.places[match.start()]
                break
            if name.startswith("card_") and not luhn(match[0]):
                position = match.start() + 1
                continue
            out += [view.raw[at : view.places[match.start()]], MARK]
            at = self._end(view, name, match.end())
            position = view.folded_from(at)
        out.append(view.raw[at:cut])
        self._held = view.raw[cut:]
        self._before = view.before(cut)
        return "".join(out)

    def _past_tail(self, view: "_View") -> int:
        """Give where the text goes on after a secret that was found in an earlier chunk."""
        return 0 if self._tail is None else self._swallow(view, self._tail, view.context)

    def _end(self, view: "_View", name: str, end: int) -> int:
        tail = self._patterns.tails.get(name)
        return view.places[end - 1] + 1 if tail is None else self._swallow(view, tail, end)

    def _swallow(self, view: "_View", tail: re.Pattern[str], start: int) -> int:
        found = tail.match(view.seen, start)
        end = start if found is None else found.end()
        self._tail = tail if end == len(view.seen) else None
        # A character may fold to several: it goes whole.
        return max(view.places[end], view.places[end - 1] + 1)


class _View:
    """A text and its folded form; `places` has the place in `raw` of every folded character, and of the end."""

    def __init__(self, before: str, raw: str) -> None:
        folds = [FOLDS[char] for char in raw]
        self.raw = raw
        self.context = len(before)
        self.seen = before + "".join(folds)
        self.places = [-1] * self.context + [i for i, folded in enumerate(folds) for _ in folded] + [len(raw)]
        self._next = self.context

    def folded_from(self, at: int) -> int:
        """Give the first folded character that belongs to `raw[at:]`; `at` never goes back."""
        while self.places[self._next] < at:
            self._next += 1
        return self._next

    def before(self, cut: int) -> str:
        """Give the folded character before `raw[cut:]`, empty when there is none."""
        start = self.folded_from(cut)
        return self.seen[start - 1 : start] if start else ""


class OutputFilter:
    """The filter of one answer, as the pipeline takes it: every event goes through `feed`."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._text = Redactor(patterns)
        self._thinking = Redactor(patterns)

    def feed(self, event: Event) -> list[Event]:
        """Take an event; give what goes on now. Held text has gone before a terminal event."""
        if isinstance(event, TextDelta):
            thought = self._thinking.flush() if self._thinking.holds else ""
            piece = self._text.feed(event.text)
            if piece is event.text and not thought:
                return [event]
            return _deltas(thought, piece)
        if isinstance(event, ThinkingDelta):
            return _deltas(self._thinking.feed(event.text), "")
        if isinstance(event, TERMINAL):
            return [*_deltas(self._thinking.flush(), self._text.flush()), self._said(event)]
        return [self._said(event)]

    def _said(self, event: Event) -> Event:
        """Redact what is told of a failure: it repeats what the provider said, which may be anything."""
        match event:
            case Failed():
                return replace(event, message=self._redacted(event.message))
            case Notice():
                told = {k: self._redacted(v) if isinstance(v, str) else v for k, v in event.detail.items()}
                return replace(event, message=self._redacted(event.message), detail=told)
        return event

    def _redacted(self, message: str) -> str:
        redactor = Redactor(self._patterns)
        return redactor.feed(message) + redactor.flush()


def _deltas(thought: str, text: str) -> list[Event]:
    thoughts: list[Event] = [ThinkingDelta(thought)] if thought else []
    return [*thoughts, TextDelta(text)] if text else thoughts
