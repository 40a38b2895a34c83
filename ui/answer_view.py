"""The rendering of one answer under way: events in; messages, stages, figures and announcements out. No I/O."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from html import escape

from evaluation.metrics.cadence import stalls
from streaming.events import Event, Notice, TextDelta, ThinkingDelta
from streaming.meter import MeterReading
from streaming.pipeline import Receipt
from streaming.thinking import StageTracker, waiting_label
from streaming.trace import Probe
from ui import html, stage_strip, strings
from ui.history import HistoryMessage, assistant_message
from ui.markdown.escaping import escape_prose
from ui.markdown.unfinished import to_drawable

REFRESH_INTERVAL_S = 0.25
"""Shortest time between two updates of the stage line and the meter while the stage does not change.

The figures of `AnswerView.figures_html` are those of every update.
"""

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

    `simulated` labels the answer as simulated. `model` is the name that its receipt begins with. `no_price` is shown in
    place of an unknown cost. A `blind` view shows nothing that identifies the provider. Stalls are counted in the
    arrivals at `probe`. `timed_words` labels the wait by its duration. All timestamps are in seconds on the caller's
    clock.
    """

    def __init__(
        self,
        started_s: float,
        *,
        simulated: bool = False,
        model: str = "",
        no_price: str = strings.UNKNOWN_PRICE,
        blind: bool = False,
        probe: Probe | None = None,
        timed_words: bool = False,
    ) -> None:
        self._started_s = started_s
        self._model = model
        self._timed_words = timed_words
        self._gaps_s = _ArrivalGaps(probe)
        self._passed: list[stage_strip.PassedStage] = []
        self._now_s = started_s
        self._simulated = simulated and not blind
        self._blind = blind
        self.no_price = no_price
        self.receipt: Receipt | None = None
        self.reading: MeterReading | None = None
        """The newest meter reading, also between two updates of the meter."""
        self.reason = ""
        """Why the answer is not whole, as Markdown; empty for a complete answer, and until the end."""
        self._hidden_simulated = simulated
        self._end: Callable[[], None] | None = None
        self._stages = StageTracker(started_s)
        self._blocks: list[_TextBlock] = []
        self._loading = False
        self._retry: Notice | None = None
        self._notices: list[Notice] = []
        self._ending: HistoryMessage | None = None
        self._error: tuple[str, float | None] | None = None
        self.unfinished = False
        """True when the answer ended incomplete, so that the user can continue or retry it."""
        self._drawn_s = float("-inf")
        self.stage = html.stage_html(strings.STAGES["connecting"], 0.0, kind="busy")
        self.meter = html.meter_html(None)
        self.announcement = strings.STAGES["connecting"]

    def feed(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            before, since_s = self._stages.stage, self._stages.since_s
            if self._stages.feed(event, now):
                self._passed.append(stage_strip.PassedStage(before, now - since_s))
                self._drawn_s = float("-inf")
            self._loading = isinstance(event, Notice) and event.kind == "loading"
            if isinstance(event, Notice):
                self._add_notice(event)
            elif isinstance(event, (TextDelta, ThinkingDelta)):
                self._add_delta(event, now)

    def refresh(self, reading: MeterReading, now: float) -> None:
        """Update the stage line and the meter if the last update is at least `REFRESH_INTERVAL_S` old."""
        self.reading, self._now_s = reading, now
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
        before, since_s = self._stages.stage, self._stages.since_s
        if self._stages.stop(now) and self._stages.stage == "stopped":
            self._passed.append(stage_strip.PassedStage(before, now - since_s))
        self._end_block(now)
        self._now_s = now
        label = f"{strings.SIMULATED_LABEL} · " if self._simulated else ""
        kind = _kind(receipt)
        notes = "".join(f"\n\n{html.escape_markdown(notice.message)}" for notice in self._notices)
        opened = kind == "bad"
        self._ending = assistant_message(
            html.receipt_markdown(receipt, self.no_price) + notes,
            title=html.receipt_headline(receipt, self._model),
            status=None if opened else "done",
            receipt=name,
        )
        self.receipt, self.reading, self.reason = receipt, receipt.reading, html.failure_text(receipt)
        self._end = partial(self.close, receipt, now, name)
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
        self._ending = assistant_message(html.escape_markdown(message), title=strings.NOT_SENT)
        self.unfinished = True
        self.stage = html.stage_html(strings.NOT_SENT, None, message, kind="bad", left_s=retry_after_s)
        self.announcement = escape(f"{strings.NOT_SENT}. {message}")
        self._error = message, retry_after_s
        self.reason = html.escape_markdown(message)
        self._end = partial(self.show_error, message, retry_after_s)

    def reveal(self) -> None:
        """Show what a blind view has hidden."""
        self._blind, self._simulated = False, self._hidden_simulated
        if self._end is not None:
            self._end()

    @property
    def is_simulated(self) -> bool:
        """Whether no model writes the answer, as far as a blind view tells it."""
        return self._simulated

    @property
    def short_stage(self) -> str:
        """The stage line, without the reason once the answer has ended."""
        if self.receipt is not None:
            label = f"{strings.SIMULATED_LABEL} · " if self._simulated else ""
            words, badge = label + html.outcome_label(self.receipt), self._fallback_badge
            return html.stage_html(words, None, kind=_kind(self.receipt), badge=badge)
        if self.ended:
            left_s = self._error[1] if self._error is not None else None
            return html.stage_html(strings.NOT_SENT, None, kind="bad", left_s=left_s)
        return self.stage

    @property
    def answer_chars(self) -> int:
        """Number of characters of the answer so far, without its thinking."""
        return sum(len(block.text) for block in self._blocks if not block.thinking)

    @property
    def has_partial_text(self) -> bool:
        """Whether the answer ended incomplete with some text that can be continued."""
        return self.unfinished and any(not block.thinking for block in self._blocks)

    @property
    def ended(self) -> bool:
        """Whether the answer has ended, with a receipt or an error."""
        return self._ending is not None

    def strip_html(self) -> str:
        """Render the passed stages with their times, and the current stage or the outcome."""
        if self._error is not None:
            message, left_s = self._error
            return stage_strip.strip_html(self._passed, strings.NOT_SENT, kind="bad", extra=message, left_s=left_s)
        badge = self._fallback_badge
        if self.receipt is not None:
            words = html.outcome_label(self.receipt)
            extra = "" if self._blind else self._last_note()
            return stage_strip.strip_html(self._passed, words, kind=_kind(self.receipt), extra=extra, badge=badge)
        words, extra = self._stage_words(), self._stage_note()
        kind = "coming" if self._stages.stage in ("thinking", "generating") else "busy"
        return stage_strip.strip_html(self._passed, words, kind=kind, extra=extra, badge=badge)

    def figures_html(self) -> str:
        """Return the clock and the metrics as of the last refresh, which the browser fills in."""
        reading = self.reading
        if self._blind and reading is not None:
            reading = replace(reading, cost=None)
        no_price = strings.HIDDEN_PRICE if self._blind else self.no_price
        return stage_strip.figures_html(reading, self._clock_text(), no_price)

    def _clock_text(self) -> str:
        if self.ended:
            return ""
        if (left_s := self._retry_left_s(self._now_s)) is not None:
            return f"{left_s:.1f} {strings.LEFT}"
        text = html.format_clock(self._now_s - self._stages.since_s)
        count = self._gaps_s.count_stalls(self._now_s)
        return f"{text} · {html.format_number(count, strings.STALLS)}" if count else text

    def messages(self) -> list[HistoryMessage]:
        """Return the messages that the answer has added to the conversation so far."""
        ending = [self._ending] if self._ending and not self._blind else []
        blocks = (self._block_message(block) for block in self._blocks)
        return [*(message for message in blocks if message is not None), *ending]

    def _block_message(self, block: _TextBlock) -> HistoryMessage | None:
        """Return the message of a block; None while nothing of it can be drawn."""
        if block.ended_s is None and not self.ended:
            drawable = escape_prose(to_drawable(block.text))
            if not drawable.strip():
                return None
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
        note = self._stage_note()
        if (left_s := self._retry_left_s(now)) is not None:
            note = f"{left_s:.1f} {strings.LEFT}" + (f" · {note}" if note else "")
        return self._stage_words(), note

    def _stage_words(self) -> str:
        if self._loading:
            return strings.LOADING
        if self._timed_words and self._stages.stage in ("connecting", "waiting"):
            return waiting_label(self._now_s - self._started_s)
        return strings.STAGES[self._stages.stage]

    def _stage_note(self) -> str:
        if self._loading:
            return ""
        if self._stages.stage == "retrying" and self._retry is not None:
            return "" if self._blind else self._retry.message
        return self._last_note()

    def _retry_left_s(self, now: float) -> float | None:
        """Return the time until the next attempt, None while none is awaited."""
        if self._loading or self._stages.stage != "retrying" or self._retry is None:
            return None
        return max(self._stages.since_s + float(self._retry.detail.get("delay_s", 0.0)) - now, 0.0)

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


def _kind(receipt: Receipt) -> str:
    return "good" if html.is_complete(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"


class _ArrivalGaps:
    """The gaps between the arrivals of answer text at a probe, gathered as they come."""

    def __init__(self, probe: Probe | None) -> None:
        self._probe = probe
        self._read = 0
        self._last_s: float | None = None
        self._gaps_s: list[float] = []

    def count_stalls(self, now: float) -> int:
        """Return the number of stalls so far; the silence since the last piece counts."""
        if self._probe is None:
            return 0
        for timed in self._probe.source[self._read :]:
            if isinstance(timed.event, TextDelta):
                if self._last_s is not None:
                    self._gaps_s.append(timed.at_s - self._last_s)
                self._last_s = timed.at_s
        self._read = len(self._probe.source)
        silence = [now - self._last_s] if self._last_s is not None else []
        count, _ = stalls([*self._gaps_s, *silence])
        return count or 0
