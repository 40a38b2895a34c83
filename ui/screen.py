"""What one answer looks like while it comes: fed its events, gives messages, stage line and announcements. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from streaming.events import Event, Notice, TextDelta, ThinkingDelta
from streaming.meter import Reading
from streaming.pipeline import Receipt
from streaming.thinking import Stages, waiting_words
from ui import figures, texts
from ui.conversation import Turn, shown
from ui.markdown import drawn

REFRESH_S = 0.5
"""The stage line and the meter change at most this often while the stage stays."""

LASTING = ("fallback", "served_by", "non_streamed", "trimmed")


@dataclass(slots=True)
class _Block:
    """A run of answer text or of thinking; `ended_s` is when something else followed."""

    thinking: bool
    started_s: float
    text: str = ""
    ended_s: float | None = None


class Screen:
    """One answer on the page; `simulated` marks it as no model's work wherever it is summed up.

    `no_price` is what stands in place of a cost that the meter does not know.
    """

    def __init__(self, started_s: float, *, simulated: bool = False, no_price: str = texts.UNKNOWN_PRICE) -> None:
        self._started_s = started_s
        self._simulated = simulated
        self._no_price = no_price
        self._stages = Stages(started_s)
        self._blocks: list[_Block] = []
        self._loading = False
        self._retry: Notice | None = None
        self._notices: list[Notice] = []
        self._ending: Turn | None = None
        self._drawn_s = float("-inf")
        self.stage = figures.stage(texts.STAGES["connecting"], 0.0, kind="busy")
        self.meter = figures.meter(None)
        self.announcement = texts.STAGES["connecting"]

    def feed(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            if self._stages.feed(event, now):
                self._drawn_s = float("-inf")
            self._loading = isinstance(event, Notice) and event.kind == "loading"
            if isinstance(event, Notice):
                self._noticed(event)
            elif isinstance(event, (TextDelta, ThinkingDelta)):
                self._add(event, now)

    def draw(self, reading: Reading, now: float) -> None:
        """Bring the stage line and the meter up to date, if it is time."""
        if now - self._drawn_s < REFRESH_S:
            return
        self._drawn_s = now
        words, extra = self._words(now)
        self.stage = figures.stage(words, now - self._started_s, extra, kind="busy")
        self.meter = figures.meter(reading, self._no_price)
        self.announcement = escape(self._retry.message if self._stages.stage == "retrying" and self._retry else words)

    def close(self, receipt: Receipt, now: float) -> None:
        """The answer is over: the receipt takes the place of the stage, and joins the messages."""
        self._stages.stop(now)
        self._end_block(now)
        label = f"{texts.SIMULATED_LABEL} · " if self._simulated else ""
        kind = "good" if figures.whole(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
        notes = "".join(f"\n\n{figures.plain(notice.message)}" for notice in self._notices)
        opened = kind == "bad"
        self._ending = shown(
            figures.details(receipt, self._no_price) + notes,
            title=label + figures.headline(receipt, self._no_price),
            status=None if opened else "done",
        )
        extra = receipt.error.message if receipt.error else self._last_note()
        self.stage = figures.stage(label + figures.ending(receipt), None, extra, kind=kind)
        self.meter = figures.meter(receipt.reading, self._no_price)
        self.announcement = escape(f"{label}{figures.ending(receipt)}. {extra}".strip())

    def refuse(self, message: str) -> None:
        """The question was not sent, or this service broke; what is there stays."""
        self._ending = shown(figures.plain(message), title=texts.NOT_ANSWERED)
        self.stage = figures.stage(texts.NOT_ANSWERED, None, message, kind="bad")
        self.announcement = escape(f"{texts.NOT_ANSWERED}. {message}")

    def messages(self) -> list[Turn]:
        """All that the answer has put into the conversation so far."""
        return [*(self._shown(block) for block in self._blocks), *([self._ending] if self._ending else [])]

    def _shown(self, block: _Block) -> Turn:
        if not block.thinking:
            return shown(drawn(block.text))
        if block.ended_s is None:
            return shown(drawn(block.text), title=texts.THINKING_NOW, status="pending")
        duration_s = round(block.ended_s - block.started_s, 1)
        return shown(drawn(block.text), title=texts.THINKING_DONE, status="done", duration_s=duration_s)

    def _add(self, delta: TextDelta | ThinkingDelta, now: float) -> None:
        thinking = isinstance(delta, ThinkingDelta)
        if not self._blocks or self._blocks[-1].thinking != thinking:
            self._end_block(now)
            self._blocks.append(_Block(thinking, now))
        self._blocks[-1].text += delta.text

    def _end_block(self, now: float) -> None:
        if self._blocks and self._blocks[-1].ended_s is None:
            self._blocks[-1].ended_s = now

    def _noticed(self, notice: Notice) -> None:
        if notice.kind == "retry":
            self._retry = notice
        if notice.kind in (*LASTING, "retry"):
            self._notices.append(notice)
            self._drawn_s = float("-inf")

    def _words(self, now: float) -> tuple[str, str]:
        stage = self._stages.stage
        if self._loading:
            return texts.LOADING, ""
        if stage == "retrying" and self._retry is not None:
            left_s = self._stages.since_s + float(self._retry.detail.get("delay_s", 0.0)) - now
            return texts.STAGES[stage], f"{max(left_s, 0.0):.1f} s left · {self._retry.message}"
        if stage in ("connecting", "waiting"):
            note = self._last_note()
            return texts.STAGES[stage], waiting_words(now - self._started_s) + (f" · {note}" if note else "")
        return texts.STAGES[stage], self._last_note()

    def _last_note(self) -> str:
        return next((n.message for n in reversed(self._notices) if n.kind in LASTING), "")
