"""Output filter that redacts banned terms and secrets while an answer streams.

The output depends only on the text, not on how it is split into chunks. The filter buffers only text that may be the
beginning of a match, at most `MAX_HELD_CHARS` visible characters; all other text passes immediately and unchanged.
The one exception: in a run of invisible characters (joiners, marks), those beyond the first `INVISIBLE_RUN` are
dropped, so that no text can make the filter buffer indefinitely. Emoji use only a few of these characters.

Text and thinking are filtered separately. When text arrives, the filter flushes buffered thinking first, because the
reader sees it first. Buffered text stays buffered during thinking, and all other events pass immediately, so that no
event splits a term.
"""

import re
from collections.abc import Iterable

from guard.secret_patterns import MAX_HELD_CHARS, Patterns, Tail
from guard.text_normalization import NORMALIZED
from streaming.events import TERMINAL, Event, Failed, Notice, TextDelta, ThinkingDelta

REDACTION = "[removed]"
INVISIBLE_RUN = 64
_fold_char = NORMALIZED.__getitem__
_INVISIBLE_ASCII = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search


class Redactor:
    """A redactor for one text that arrives in chunks: call `feed` for each chunk, then `flush`."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._search = patterns.search
        self.held = ""
        """The text that is held back, because it may be the beginning of a match."""
        self._before = ""  # the last folded character before the held text: a token does not begin inside a word
        self._tail: Tail | None = None  # the tail of a matched secret that may continue
        self._undecided = False  # whether the next chunk decides if that secret continues
        self._invisible = 0

    def feed(self, text: str) -> str:
        """Process a chunk and return the text that can be released now, which is usually the chunk itself."""
        if self._tail is None:
            raw = self.held + text if self.held else text
            if raw.isascii() and (raw.isprintable() or not _INVISIBLE_ASCII(raw)):
                folded: str | None = raw.lower()
            else:
                folded = _fold_evenly(raw)
            if folded is not None:
                seen, context = self._before + folded, len(self._before)
                match = self._search(seen, context)
                if match is None:
                    self.held, self._before, self._invisible = "", seen[-1:], 0
                    return raw
                if self._patterns.matched_name(match) is None and match.end() - match.start() <= MAX_HELD_CHARS:
                    return self._hold(raw, seen, context, match.start())
        return self._scan(self._drop_invisible(text), last=False)

    def _hold(self, raw: str, seen: str, context: int, cut: int) -> str:
        """Hold back what may be the beginning of a match, at `seen[cut:]`, and return the text before it.

        `seen` is the folded text, with one character for each of `raw` after `context` characters of what was before.
        """
        self.held = raw[cut - context :]
        self._before = seen[cut - 1 : cut] if cut else ""
        self._invisible = 0
        return raw[: cut - context]

    def flush(self) -> str:
        """Return the held text at the end of the answer, with matches redacted."""
        return self._scan("", last=True) if self.held or self._tail is not None else ""

    def _drop_invisible(self, text: str) -> str:
        """Drop invisible characters beyond the first `INVISIBLE_RUN` of a run."""
        kept = []
        for char in text:
            self._invisible = 0 if NORMALIZED[char] else self._invisible + 1
            if self._invisible <= INVISIBLE_RUN:
                kept.append(char)
        return "".join(kept)

    def _scan(self, text: str, last: bool) -> str:
        view = _NormalizedText(self._before, self.held + text)
        search = self._patterns.search_last if last else self._patterns.search
        at, out, cut = 0, [], len(view.raw)
        if self._tail is not None:
            at = self._pass_tail(view, self._tail, view.context, last)
        position = view.normalized_index(at)
        while not self._undecided and (match := search(view.seen, position)) is not None:
            if match.end() - match.start() > MAX_HELD_CHARS:
                position = match.start() + 1
            elif (name := self._patterns.matched_name(match)) is None:
                cut = view.places[match.start()]
                break
            elif not self._patterns.is_secret(name, match[0], view.raw_between(match.start(), match.end())):
                position = match.start() + 1
            else:
                out += [view.raw[at : view.places[self._patterns.start(match)]], REDACTION]
                at = self._secret_end(view, name, match.end(), last)
                position = view.normalized_index(at)
        cut = at if self._undecided else cut
        out.append(view.raw[at:cut])
        self.held = view.raw[cut:]
        self._before = view.char_before(cut)
        return "".join(out)

    def _secret_end(self, view: "_NormalizedText", name: str, end: int, last: bool) -> int:
        tail = self._patterns.tails.get(name)
        return view.places[end - 1] + 1 if tail is None else self._pass_tail(view, tail, end, last)

    def _pass_tail(self, view: "_NormalizedText", tail: Tail, start: int, last: bool) -> int:
        """Return the index in the raw text after a secret whose tail continues at `start`."""
        end = tail.end(view.seen, start)
        at_end = end == len(view.seen)
        self._undecided = not last and not at_end and tail.may_go_on(view.seen, end)
        self._tail = tail if at_end or self._undecided else None
        # A character may fold to several characters: it is removed as a whole.
        return max(view.places[end], view.places[end - 1] + 1) if end else view.places[end]


def _fold_evenly(text: str) -> str | None:
    """Return the folded text if each character folds to exactly one character, or None otherwise."""
    folds = list(map(_fold_char, text))
    folded = "".join(folds)
    return folded if len(folded) == len(text) and "" not in folds else None


class _NormalizedText:
    """A text with its folded form. `places` maps each folded character, and the end, to its index in `raw`."""

    def __init__(self, before: str, raw: str) -> None:
        folds = [NORMALIZED[char] for char in raw]
        self.raw = raw
        self.context = len(before)
        self.seen = before + "".join(folds)
        self.places = [-1] * self.context + [i for i, folded in enumerate(folds) for _ in folded] + [len(raw)]
        self._next = self.context

    def normalized_index(self, at: int) -> int:
        """Return the index of the first folded character of `raw[at:]`. `at` must not decrease between calls."""
        while self.places[self._next] < at:
            self._next += 1
        return self._next

    def raw_between(self, start: int, end: int) -> str:
        """Return the raw text of the folded characters from `start` to `end`."""
        return self.raw[self.places[start] : self.places[end - 1] + 1]

    def char_before(self, cut: int) -> str:
        """Return the folded character before `raw[cut:]`, or an empty string if there is none."""
        start = self.normalized_index(cut)
        return self.seen[start - 1 : start] if start else ""


class OutputFilter:
    """An output filter for one answer. The pipeline passes every event through `feed`."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._text = Redactor(patterns)
        self._thinking = Redactor(patterns)

    def feed(self, event: Event) -> list[Event]:
        """Process an event and return the events to release now. A terminal event flushes the held text first."""
        if isinstance(event, TextDelta):
            thought = self._thinking.flush() if self._thinking.held else ""
            piece = self._text.feed(event.text)
            if piece is event.text and not thought:
                return [event]
            return _make_deltas(thought, piece)
        if isinstance(event, ThinkingDelta):
            return _make_deltas(self._thinking.feed(event.text), "")
        if isinstance(event, TERMINAL):
            return [*_make_deltas(self._thinking.flush(), self._text.flush()), self._redact_event(event)]
        return [self._redact_event(event)]

    def _redact_event(self, event: Event) -> Event:
        """Redact the text of failures and notices, which may quote arbitrary provider messages."""
        match event:
            case Failed():
                return Failed(event.kind, self._redact_message(event.message), event.http_status)
            case Notice():
                detail = {k: self._redact_message(v) if isinstance(v, str) else v for k, v in event.detail.items()}
                return Notice(event.kind, self._redact_message(event.message), detail)
        return event

    def _redact_message(self, message: str) -> str:
        redactor = Redactor(self._patterns)
        return redactor.feed(message) + redactor.flush()


class FilterChain:
    """Filters of one answer, each of which processes what the one before has passed on."""

    def __init__(self, filters: Iterable[OutputFilter]) -> None:
        self._filters = list(filters)

    def feed(self, event: Event) -> list[Event]:
        """Process an event and return the events to release now."""
        events = [event]
        for one in self._filters:
            events = [passed for held in events for passed in one.feed(held)]
        return events


def _make_deltas(thought: str, text: str) -> list[Event]:
    thoughts: list[Event] = [ThinkingDelta(thought)] if thought else []
    return [*thoughts, TextDelta(text)] if text else thoughts
