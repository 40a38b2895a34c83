"""The rendering of one answer under way: events in; messages, stage line and announcements out. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape

from streaming.events import Event, Notice, TextDelta, ThinkingDelta
from streaming.meter import MeterReading
from streaming.pipeline import Receipt
from streaming.thinking import StageTracker, waiting_label
from ui import html, strings
from ui.history import HistoryMessage, assistant_message
from ui.markdown.escaping import escape_prose
from ui.markdown.unfinished import to_drawable

REFRESH_INTERVAL_S = 0.5
"""Shortest time between two updates of the stage line and the meter while the stage does not change."""

STICKY_NOTICES = ("fallback", "served_by", "non_streamed", "trimmed", "budget", "dropped_settings", "retiring")


@dataclass(slots=True)
class _TextBlock:
    """A run of answer text or of thinking text; `ended_s` is the timestamp at which other content followed."""

    thinking: bool
    started_s: float
    text: str = ""
    ended_s: float | None = None


class AnswerView:
    """The view of one answer on the page.

    `simulated` labels the answer as simulated in every summary. `no_price` is shown in place of an unknown cost.
    A `blind` view shows nothing that identifies the provider. All timestamps are in seconds on the caller's clock.
    """

    def __init__(
        self,
        started_s: float,
        *,
        simulated: bool = False,
        no_price: str = strings.UNKNOWN_PRICE,
        blind: bool = False,
    ) -> None:
        self._started_s = started_s
        self._simulated = simulated and not blind
        self._blind = blind
        self.no_price = no_price
        self.receipt: Receipt | None = None
        self._stages = StageTracker(started_s)
        self._blocks: list[_TextBlock] = []
        self._loading = False
        self._retry: Notice | None = None
        self._notices: list[Notice] = []
        self._ending: HistoryMessage | None = None
        self.unfinished = False
        """True when the answer ended incomplete, so that the user can continue or retry it."""
        self._drawn_s = float("-inf")
        self.stage = html.stage_html(strings.STAGES["connecting"], 0.0, kind="busy")
        self.meter = html.meter_html(None)
        self.announcement = strings.STAGES["connecting"]

    def feed(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            if self._stages.feed(event, now):
                self._drawn_s = float("-inf")
            self._loading = isinstance(event, Notice) and event.kind == "loading"
            if isinstance(event, Notice):
                self._add_notice(event)
            elif isinstance(event, (TextDelta, ThinkingDelta)):
                self._add_delta(event, now)

    def refresh(self, reading: MeterReading, now: float) -> None:
        """Update the stage line and the meter if the last update is at least `REFRESH_INTERVAL_S` old."""
        if now - self._drawn_s < REFRESH_INTERVAL_S:
            return
        self._drawn_s = now
        words, extra = self._stage_text(now)
        kind = "coming" if self._stages.stage in ("thinking", "generating") else "busy"
        self.stage = html.stage_html(words, now - self._started_s, extra, kind=kind, badge=self._fallback_badge)
        self.meter = self._meter_html(reading)
        self.announcement = escape(self._announcement_text(words))

    def close(self, receipt: Receipt, now: float, name: str | None = None) -> None:
        """Show the receipt of the ended answer on the stage line, and add it to the messages under the id `name`."""
        self._stages.stop(now)
        self._end_block(now)
        label = f"{strings.SIMULATED_LABEL} · " if self._simulated else ""
        kind = "good" if html.is_complete(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
        notes = "".join(f"\n\n{html.escape_markdown(notice.message)}" for notice in self._notices)
        opened = kind == "bad"
        self._ending = assistant_message(
            html.receipt_markdown(receipt, self.no_price) + notes,
            title=label + html.receipt_headline(receipt, self.no_price),
            status=None if opened else "done",
            receipt=name,
        )
        self.receipt = receipt
        self.unfinished = not html.is_complete(receipt)
        extra = "" if self._blind else receipt.error.message if receipt.error else self._last_note()
        self.stage = html.stage_html(
            label + html.outcome_label(receipt), None, extra, kind=kind, badge=self._fallback_badge
        )
        self.meter = self._meter_html(receipt.reading)
        self.announcement = escape(f"{label}{html.outcome_label(receipt)}. {extra}".strip())

    def show_error(self, message: str, retry_after_s: float | None = None) -> None:
        """Show that the request was not sent or that the service failed; keep the text shown so far.

        The browser counts `retry_after_s` down.
        """
        self._ending = assistant_message(html.escape_markdown(message), title=strings.NOT_ANSWERED)
        self.unfinished = True
        self.stage = html.stage_html(strings.NOT_ANSWERED, None, message, kind="bad", left_s=retry_after_s)
        self.announcement = escape(f"{strings.NOT_ANSWERED}. {message}")

    @property
    def has_partial_text(self) -> bool:
        """Whether the answer ended incomplete with some text that can be continued."""
        return self.unfinished and any(not block.thinking for block in self._blocks)

    @property
    def ended(self) -> bool:
        """Whether the answer has ended, with a receipt or an error."""
        return self._ending is not None

    def messages(self) -> list[HistoryMessage]:
        """Return the messages that the answer has added to the conversation so far."""
        ending = [self._ending] if self._ending and not (self._blind and self.receipt) else []
        return [*(self._block_message(block) for block in self._blocks), *ending]

    def _block_message(self, block: _TextBlock) -> HistoryMessage:
        if block.ended_s is None and not self.ended:
            drawable = escape_prose(to_drawable(block.text))
            if not block.thinking:
                return assistant_message(drawable)
            return assistant_message(drawable, title=strings.THINKING_NOW, status="pending")
        if not block.thinking:
            return assistant_message(escape_prose(block.text))
        duration_s = None if block.ended_s is None else round(block.ended_s - block.started_s, 1)
        return assistant_message(
            escape_prose(block.text), title=strings.THINKING_DONE, status="done", duration_s=duration_s
        )

    def _add_delta(self, delta: TextDelta | ThinkingDelta, now: float) -> None:
        thinking = isinstance(delta, ThinkingDelta)
        if not self._blocks or self._blocks[-1].thinking != thinking:
            self._end_block(now)
            self._blocks.append(_TextBlock(thinking, now))
        self._blocks[-1].text += delta.text

    def _end_block(self, now: float) -> None:
        if self._blocks and self._blocks[-1].ended_s is None:
            self._blocks[-1].ended_s = now

    def _add_notice(self, notice: Notice) -> None:
        if notice.kind == "retry":
            self._retry = notice
        if notice.kind in (*STICKY_NOTICES, "retry"):
            self._notices.append(notice)
            self._drawn_s = float("-inf")

    def _announcement_text(self, words: str) -> str:
        retrying = self._stages.stage == "retrying" and not self._blind
        return self._retry.message if retrying and self._retry else words

    def _stage_text(self, now: float) -> tuple[str, str]:
        stage = self._stages.stage
        if self._loading:
            return strings.LOADING, ""
        if stage == "retrying" and self._retry is not None:
            left_s = self._stages.since_s + float(self._retry.detail.get("delay_s", 0.0)) - now
            why = "" if self._blind else f" · {self._retry.message}"
            return strings.STAGES[stage], f"{max(left_s, 0.0):.1f} {strings.LEFT}{why}"
        if stage in ("connecting", "waiting"):
            note = self._last_note()
            return strings.STAGES[stage], waiting_label(now - self._started_s) + (f" · {note}" if note else "")
        return strings.STAGES[stage], self._last_note()

    @property
    def _fallback_badge(self) -> str:
        return strings.FALLBACK if any(notice.kind in ("fallback", "served_by") for notice in self._notices) else ""

    def _meter_html(self, reading: MeterReading) -> str:
        if self._blind:
            return html.meter_html(replace(reading, cost=None), strings.HIDDEN_PRICE)
        return html.meter_html(reading, self.no_price)

    def _last_note(self) -> str:
        if self._blind:
            return ""
        return next((n.message for n in reversed(self._notices) if n.kind in STICKY_NOTICES), "")
