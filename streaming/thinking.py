"""Thinking: a parser for think tags in text, and the stages of an answer that a reader sees. Performs no I/O."""

from collections.abc import Sequence
from typing import Literal

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta

Stage = Literal["connecting", "waiting", "thinking", "generating", "retrying", "done", "failed", "stopped"]

MAX_LEADING_SPACE = 1_000
"""Characters of white space allowed before a think tag; after more of them, a tag is text."""

WAITING_WORDS: Sequence[tuple[float, str]] = (
    (1.0, "Thinking…"),
    (2.5, "Analyzing…"),
    (float("inf"), "Generating response…"),
)
"""Labels shown while waiting, each up to its second; they show that time passes, not what the model does."""


def waiting_label(waited_s: float) -> str:
    """Return the label for a wait of `waited_s` seconds."""
    return next(words for until_s, words in WAITING_WORDS if waited_s < until_s)


class StageTracker:
    """The stage of one answer, derived from its events; `since_s` is the timestamp at which the current stage began."""

    def __init__(self, started_s: float) -> None:
        self.stage: Stage = "connecting"
        self.since_s = started_s

    def feed(self, event: Event, now: float) -> bool:
        """Process an event and return whether it changed the stage."""
        return self._set_stage(self._stage_after(event), now)

    def stop(self, now: float) -> bool:
        """Record that the reader stopped the answer and return whether that changed the stage."""
        return self._set_stage(self.stage if self.stage in ("done", "failed") else "stopped", now)

    def _set_stage(self, stage: Stage, now: float) -> bool:
        if stage == self.stage:
            return False
        self.stage, self.since_s = stage, now
        return True

    def _stage_after(self, event: Event) -> Stage:
        match event:
            case TextDelta():
                return "generating"
            case ThinkingDelta():
                return self.stage if self.stage == "generating" else "thinking"
            case Notice(kind="connected"):
                return "waiting"
            case Notice(kind="retry"):
                return "retrying"
            case Notice(kind="fallback"):
                return "connecting"
            case Finish():
                return "done"
            case Failed():
                return "failed"
            case _:
                return self.stage


class ThinkTagParser:
    """An incremental parser (feed / flush) that separates a `<think>…</think>` block from the answer's text.

    A tag counts only at the beginning of the answer, after optional white space, as models write it; later tags are
    text. The white space before and after the block is dropped.
    """

    def __init__(self, opening: str = "<think>", closing: str = "</think>") -> None:
        self._opening = opening
        self._closing = closing
        self._state: Literal["start", "inside", "after", "text"] = "start"
        self._held = ""

    @property
    def holds_text(self) -> bool:
        """Whether text is held back because it may be part of a tag."""
        return bool(self._held)

    def feed(self, text: str) -> list[TextDelta | ThinkingDelta]:
        """Parse more text and return the deltas whose kind, answer or thinking, is now certain."""
        if self._state == "text":
            return [TextDelta(text)] if text else []
        self._held += text
        out: list[TextDelta | ThinkingDelta] = []
        while self._advance(out):
            pass
        return out

    def flush(self) -> list[TextDelta | ThinkingDelta]:
        """End the input and return the text that was held back."""
        held, self._held = self._held, ""
        if not held or self._state == "after":
            return []
        return [ThinkingDelta(held) if self._state == "inside" else TextDelta(held)]

    def _advance(self, out: list[TextDelta | ThinkingDelta]) -> bool:
        if self._state == "start":
            return self._parse_start(out)
        if self._state == "inside":
            return self._parse_thinking(out)
        rest = self._held.lstrip() if self._state == "after" else self._held
        self._held = ""
        if rest:
            self._state = "text"
            out.append(TextDelta(rest))
        return False

    def _parse_start(self, out: list[TextDelta | ThinkingDelta]) -> bool:
        bare = self._held.lstrip()
        # Without this limit, endless white space would be held and searched again with every piece.
        may_begin = len(self._held) - len(bare) <= MAX_LEADING_SPACE
        if may_begin and bare.startswith(self._opening):
            self._state, self._held = "inside", bare[len(self._opening) :]
            return True
        if may_begin and self._opening.startswith(bare):
            return False
        self._state = "text"
        out.append(TextDelta(self._held))
        self._held = ""
        return False

    def _parse_thinking(self, out: list[TextDelta | ThinkingDelta]) -> bool:
        thought, tag, rest = self._held.partition(self._closing)
        keep = 0 if tag else _count_overlap(thought, self._closing)
        if ready := thought[: len(thought) - keep]:
            out.append(ThinkingDelta(ready))
        self._held = rest if tag else thought[len(thought) - keep :]
        if tag:
            self._state = "after"
        return bool(tag)


def _count_overlap(text: str, tag: str) -> int:
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)
