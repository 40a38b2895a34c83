"""Event handlers of the pipeline tab: one stream under two strategies, with its live state machine."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from streaming import strategies
from streaming.events import Event, Failed, Notice, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest, Message
from streaming.pipeline import Receipt
from streaming.retry import State
from ui import html, strings
from ui.answers import TICK_INTERVAL_S, AnswerService
from ui.components import HIDDEN_IN_DOM
from ui.form import LOCAL_PROVIDER, ValidatedQuestion
from ui.pipeline import buffering_diagram, state_diagram
from ui.pipeline.panes import Pane, PanePlayback, PaneStats
from ui.pipeline.scenarios import Scenarios
from ui.pipeline.state_diagram import Passage
from ui.types import PageAnswer

SLOT = "pipeline"
REFRESH_INTERVAL_S = 0.25
MAX_TOKENS = 200
MAX_SHOWN_CHARS = 10_000

PipelineUpdate = tuple[Any, ...]
"""One update: texts and metrics of both panes, state diagram, stage line, buffering diagrams, Stop, announcement."""


class PipelineHandlers:
    """Event handlers that deliver one scenario through two strategies at once."""

    def __init__(self, answer_service: AnswerService, scenarios: Scenarios) -> None:
        self._answer_service = answer_service
        self._scenarios = scenarios

    async def run(
        self, scenario: str, left: str, right: str, interval_ms: float, prompt: str, request: gr.Request
    ) -> AsyncGenerator[PipelineUpdate, None]:
        """Play the scenario and yield updates of both panes until the stream ends or is stopped."""
        kinds = (left, right)
        try:
            panes = [Pane(strategies.parse(strategy_name(kind, interval_ms)).build()) for kind in kinds]
            requests = ChatRequest((Message("user", prompt.strip() or strings.PIPELINE_PROMPT),), max_tokens=MAX_TOKENS)
            simulated = scenario != LOCAL_PROVIDER
            validated = ValidatedQuestion(self._scenarios.check_name(scenario), requests, "direct", simulated)
            state_watch = _StateWatch(self._answer_service.clock())
            async with self._answer_service.open_answer(
                SLOT, validated, request, new_session=self._scenarios.new_session
            ) as opened:
                play = self._make_playback(opened.answer, panes, state_watch)
                async with aclosing(self._stream_updates(play, opened.answer, panes, state_watch)) as frames:
                    async for frame in frames:
                        yield frame
                receipt = await opened.wait_receipt()
            measured = {strategy_name(kind, interval_ms): pane.stats() for kind, pane in zip(kinds, panes, strict=True)}
            diagrams = buffering_diagram.buffering_html(play.received, interval_ms / 1000, measured)
            diagram, _ = state_watch.render_current(opened.answer)
            retries = opened.answer.session.states.count("retrying")
            yield _last_update(receipt, panes, diagram, diagrams, simulated=simulated, retries=retries)
        except Exception as error:
            words, retry_after_s = self._answer_service.explain(error)
            yield _rejection_update(words, retry_after_s)

    async def stop(self, request: gr.Request) -> None:
        """Stop the stream."""
        await self._answer_service.page_sessions.get(request.session_hash).slot(SLOT).stop()

    def _make_playback(self, answer: PageAnswer, panes: Sequence[Pane], state_watch: "_StateWatch") -> PanePlayback:
        def on_events(events: Sequence[Event], now: float) -> None:
            state_watch.on_events(events, answer, now)

        return PanePlayback(answer, panes, self._answer_service.clock, on_events, TICK_INTERVAL_S)

    async def _stream_updates(
        self, play: PanePlayback, answer: PageAnswer, panes: Sequence[Pane], state_watch: "_StateWatch"
    ) -> AsyncGenerator[PipelineUpdate, None]:
        """Yield an update when a pane has more text, and refresh metrics and state at least every tick."""
        clock = self._answer_service.clock
        stats_htmls = [_stats_html(pane.stats()) for pane in panes]
        yield (
            "",
            "",
            *stats_htmls,
            *state_watch.render_current(answer),
            "",
            gr.update(visible=True),
            strings.STATES["streaming"],
        )
        shown_chars = [0] * len(panes)
        async with aclosing(play.updates()) as changes:
            async for _ in changes:
                for diagram_and_stage in state_watch.iter_passed(answer):
                    yield (*[gr.skip()] * 4, *diagram_and_stage, *[gr.skip()] * 3)
                grown = [len(pane.text) > chars for pane, chars in zip(panes, shown_chars, strict=True)]
                shown_chars = [len(pane.text) for pane in panes]
                shown = [
                    _truncate_shown(pane.text) if more else gr.skip() for pane, more in zip(panes, grown, strict=True)
                ]
                if state_watch.is_due(clock()):
                    stats_htmls = [_stats_html(pane.stats()) for pane in panes]
                    yield (*shown, *stats_htmls, *state_watch.render_current(answer), *[gr.skip()] * 3)
                elif any(grown):
                    yield (*shown, *[gr.skip()] * 7)


class _StateWatch:
    """The states that an answer has passed with their reasons, and the time of their next redraw."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._states = 0
        self._drawn_s = float("-inf")
        self._now_s = started_s
        self._note = ""
        self._noted_states = 0
        """How many states the answer had entered when the note came: it is not that of the next one."""
        self._text = False
        self._retry_at_s = started_s
        self._reasons: dict[State, list[str]] = {"cancelled": [strings.STOPPED_BY_USER]}
        """Why the answer entered a state, for each time that it did."""

    def on_events(self, events: Sequence[Event], answer: PageAnswer, now: float) -> None:
        """Record the events received at `now`, and force a redraw after a state change."""
        self._now_s = now
        if len(answer.session.states) > self._states:
            self._drawn_s = float("-inf")
        for event in events:
            if isinstance(event, (Failed, Notice)):
                self._noted_states = len(answer.session.states)
            self._text = self._text or isinstance(event, (TextDelta, ThinkingDelta))
            if isinstance(event, Failed):
                self._add_reason("failed", event.message)
            elif isinstance(event, Notice) and event.kind != "connected":
                self._add_notice(event, now)

    def _add_notice(self, notice: Notice, now: float) -> None:
        if notice.kind == "retry":
            self._retry_at_s = now + float(notice.detail["delay_s"])
            self._add_reason("retrying", notice.message)
        elif notice.kind == "fallback":
            self._add_reason("fallback", notice.message)
        else:
            self._note = notice.message

    def _add_reason(self, state: State, message: str) -> None:
        self._note = message
        self._reasons.setdefault(state, []).append(message)

    def is_due(self, now: float) -> bool:
        """Return whether the last redraw is at least `REFRESH_INTERVAL_S` old."""
        return now - self._drawn_s >= REFRESH_INTERVAL_S

    def iter_passed(self, answer: PageAnswer) -> Iterator[tuple[str, str]]:
        """Yield state diagram and stage line for each state entered and left since the last redraw."""
        for count in range(self._states + 1, len(answer.session.states)):
            yield self._render(answer.session.states[:count])

    def render_current(self, answer: PageAnswer) -> tuple[str, str]:
        """Return state diagram and stage line in the current state."""
        self._drawn_s = self._now_s
        return self._render([*answer.session.states])

    def _render(self, states: Sequence[State]) -> tuple[str, str]:
        self._states = len(states)
        kind = "coming" if self._text and states[-1] == "streaming" else "busy"
        left_s = max(self._retry_at_s - self._now_s, 0.0) if states[-1] == "retrying" else None
        note = self._note if len(states) == self._noted_states else ""
        line = html.stage_html(
            strings.STATES[states[-1]], self._now_s - self._started_s, note, kind=kind, left_s=left_s
        )
        return state_diagram.state_diagram_html([*self._iter_passages(states)]), line

    def _iter_passages(self, states: Sequence[State]) -> Iterator[Passage]:
        """Yield the states with their reasons, as far as these are known already."""
        reasons = {state: iter(texts) for state, texts in self._reasons.items()}
        for state in states:
            yield Passage(state, next(reasons.get(state, iter(())), ""))


def strategy_name(kind: str, interval_ms: float) -> str:
    """Return a strategy's full name, with the interval for the kinds that have one."""
    result = strategies.STRATEGIES.get(kind)
    return kind if result is None else buffering_diagram.with_interval(result, interval_ms)


def _last_update(
    receipt: Receipt, panes: Sequence[Pane], diagram: str, diagrams: str, *, simulated: bool, retries: int
) -> PipelineUpdate:
    label = (f"{strings.SIMULATED_LABEL} · " if simulated else "") + html.outcome_label(receipt)
    kind = "good" if html.is_complete(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
    retried = html.format_number(retries, strings.RETRIED) if retries else ""
    extra = receipt.error.message if receipt.error else retried
    line = html.stage_html(label, None, extra, kind=kind)
    stats_htmls = [_stats_html(pane.stats()) for pane in panes]
    return (
        *(_truncate_shown(pane.text) for pane in panes),
        *stats_htmls,
        diagram,
        line,
        diagrams,
        gr.update(visible=HIDDEN_IN_DOM),
        label,
    )


def _truncate_shown(text: str) -> str:
    """Return the text cut to `MAX_SHOWN_CHARS`: millions of characters in a textbox would block the browser."""
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    return text[:MAX_SHOWN_CHARS] + strings.SHOWN_CUT.format(chars=len(text))


def _rejection_update(message: str, retry_after_s: float | None = None) -> PipelineUpdate:
    line = html.stage_html(strings.NOT_SENT, None, message, kind="bad", left_s=retry_after_s)
    return (*[gr.skip()] * 5, line, gr.skip(), gr.update(visible=HIDDEN_IN_DOM), escape(message))


def _stats_html(stats: PaneStats) -> str:
    delay = html.format_delay(stats.delay_mean_s, stats.delay_max_s)
    cells = [
        (strings.CHUNKS_RECEIVED, f"{stats.chunks:,}", ""),
        (strings.UI_UPDATES, f"{stats.updates:,}", ""),
        (strings.BYTES_SENT, f"{stats.sent_bytes / 1000:.1f} kB", strings.BYTES_NOTE),
        (strings.ADDED_DELAY, delay, ""),
    ]
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(note)}</small></dd></div>"
        for name, value, note in cells
    )
    return f'<dl class="sg-meter sg-four">{rows}</dl>'
