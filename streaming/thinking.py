"""Thinking: the splitter of think tags in text, and the stages that a reader is shown. Pure."""

from collections.abc import Sequence
from typing import Literal

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta

Stage = Literal["connecting", "waiting", "thinking", "generating", "retrying", "done", "failed", "stopped"]

MAX_LEADING_SPACE = 1_000
"""Characters of white space before a think tag; after more of them a tag is text."""

WAITING_WORDS: Sequence[tuple[float, str]] = (
    (1.0, "Thinking…"),
    (2.5, "Analyzing…"),
    (float("inf"), "Generating response…"),
)
"""Words shown while waiting, each until its second; they say that time passes, not what the model does."""


def waiting_label(waited_s: float) -> str:
    """Give the words for a wait of so many seconds."""
    return next(words for until_s, words in WAITING_WORDS if waited_s < until_s)


class StageTracker:
    """Follows the stage of one answer from its events; `since_s` is when the present one began."""

    def __init__(self, started_s: float) -> None:
        self.stage: Stage = "connecting"
        self.since_s = started_s

    def feed(self, event: Event, now: float) -> bool:
        """Take an event; True when it changed the stage."""
        return self._set_stage(self._stage_after(event), now)

    def stop(self, now: float) -> bool:
        """The reader stopped the answer; True unless it had ended by itself."""
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
    """Splits `<think>…</think>` out of text that arrives in pieces; feed / flush.

    Tags count only where the answer begins with one (leading white space aside), as models write them; later ones are
    text. The white space before and after the block belongs to it and is dropped.
    """

    def __init__(self, opening: str = "<think>", closing: str = "</think>") -> None:
        self._opening = opening
        self._closing = closing
        self._state: Literal["start", "inside", "after", "text"] = "start"
        self._held = ""

    @property
    def holds_text(self) -> bool:
        """Whether text is held back that may be part of a tag."""
        return bool(self._held)

    def feed(self, text: str) -> list[TextDelta | ThinkingDelta]:
        """Take text; give what is now known to be answer or thinking."""
        if self._state == "text":
            return [TextDelta(text)] if text else []
        self._held += text
        out: list[TextDelta | ThinkingDelta] = []
        while self._advance(out):
            pass
        return out

    def flush(self) -> list[TextDelta | ThinkingDelta]:
        """The text is over: what was held back is what it seems."""
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
        # Endless white space must not be held, and looked through anew with every piece.
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
