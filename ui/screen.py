"""What one answer looks like while it comes: fed its events, gives messages, stage line and announcements. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
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

LASTING = ("fallback", "served_by", "non_streamed", "trimmed", "budget", "dropped_settings", "retiring")


@dataclass(slots=True)
class _Block:
    """A run of answer text or of thinking; `ended_s` is when something else followed."""

    thinking: bool
    started_s: float
    text: str = ""
    ended_s: float | None = None


class Screen:
    """One answer on the page; `simulated` marks it as no model's work wherever it is summed up.

    `no_price` is what stands in place of a cost that the meter does not know. A `blind` screen shows nothing by which
    the provider could be known.
    """

    def __init__(
        self,
        started_s: float,
        *,
        simulated: bool = False,
        no_price: str = texts.UNKNOWN_PRICE,
        blind: bool = False,
    ) -> None:
        self._started_s = started_s
        self._simulated = simulated and not blind
        self._blind = blind
        self.no_price = no_price
        self.receipt: Receipt | None = None
        self._stages = Stages(started_s)
        self._blocks: list[_Block] = []
        self._loading = False
        self._retry: Notice | None = None
        self._notices: list[Notice] = []
        self._ending: Turn | None = None
        self.unfinished = False
        """Whether it has ended without all that the model had to say: it can be continued, or asked again."""
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
        kind = "coming" if self._stages.stage in ("thinking", "generating") else "busy"
        self.stage = figures.stage(words, now - self._started_s, extra, kind=kind, badge=self._badge)
        self.meter = self._meter(reading)
        self.announcement = escape(self._said(words))

    def close(self, receipt: Receipt, now: float, name: str | None = None) -> None:
        """The answer is over: the receipt takes the place of the stage, and joins the messages under `name`."""
        self._stages.stop(now)
        self._end_block(now)
        label = f"{texts.SIMULATED_LABEL} · " if self._simulated else ""
        kind = "good" if figures.whole(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
        notes = "".join(f"\n\n{figures.plain(notice.message)}" for notice in self._notices)
        opened = kind == "bad"
        self._ending = shown(
            figures.details(receipt, self.no_price) + notes,
            title=label + figures.headline(receipt, self.no_price),
            status=None if opened else "done",
            receipt=name,
        )
        self.receipt = receipt
        self.unfinished = not figures.whole(receipt)
        extra = "" if self._blind else receipt.error.message if receipt.error else self._last_note()
        self.stage = figures.stage(label + figures.ending(receipt), None, extra, kind=kind, badge=self._badge)
        self.meter = self._meter(receipt.reading)
        self.announcement = escape(f"{label}{figures.ending(receipt)}. {extra}".strip())

    def refuse(self, message: str, retry_after_s: float | None = None) -> None:
        """The question was not sent, or this service broke; what is there stays. The page counts the seconds down."""
        self._ending = shown(figures.plain(message), title=texts.NOT_ANSWERED)
        self.unfinished = True
        self.stage = figures.stage(texts.NOT_ANSWERED, None, message, kind="bad", left_s=retry_after_s)
        self.announcement = escape(f"{texts.NOT_ANSWERED}. {message}")

    @property
    def partial(self) -> bool:
        """Whether there is a part of an answer to go on from."""
        return self.unfinished and any(not block.thinking for block in self._blocks)

    @property
    def ended(self) -> bool:
        """Whether the receipt, or a refusal, stands."""
        return self._ending is not None

    def messages(self) -> list[Turn]:
        """All that the answer has put into the conversation so far."""
        ending = [self._ending] if self._ending and not (self._blind and self.receipt) else []
        return [*(self._shown(block) for block in self._blocks), *ending]

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

    def _said(self, words: str) -> str:
        retrying = self._stages.stage == "retrying" and not self._blind
        return self._retry.message if retrying and self._retry else words

    def _words(self, now: float) -> tuple[str, str]:
        stage = self._stages.stage
        if self._loading:
            return texts.LOADING, ""
        if stage == "retrying" and self._retry is not None:
            left_s = self._stages.since_s + float(self._retry.detail.get("delay_s", 0.0)) - now
            why = "" if self._blind else f" · {self._retry.message}"
            return texts.STAGES[stage], f"{max(left_s, 0.0):.1f} {texts.LEFT}{why}"
        if stage in ("connecting", "waiting"):
            note = self._last_note()
            return texts.STAGES[stage], waiting_words(now - self._started_s) + (f" · {note}" if note else "")
        return texts.STAGES[stage], self._last_note()

    @property
    def _badge(self) -> str:
        return texts.FALLBACK if any(notice.kind in ("fallback", "served_by") for notice in self._notices) else ""

    def _meter(self, reading: Reading) -> str:
        if self._blind:
            return figures.meter(replace(reading, cost=None), texts.HIDDEN_PRICE)
        return figures.meter(reading, self.no_price)

    def _last_note(self) -> str:
        if self._blind:
            return ""
        return next((n.message for n in reversed(self._notices) if n.kind in LASTING), "")
