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
from streaming.trace import Probe
from ui import html, strings
from ui.answers import TICK_INTERVAL_S, AnswerService
from ui.components import HIDDEN_IN_DOM
from ui.form import LOCAL_PROVIDER, ValidatedQuestion
from ui.pipeline import buffering_diagram, state_diagram
from ui.pipeline.panes import Pane, PanePlayback, PaneStats
from ui.pipeline.scenarios import Scenarios
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
        try:
            panes = [Pane(strategies.parse(strategy_name(kind, interval_ms)).build()) for kind in (left, right)]
            requests = ChatRequest((Message("user", prompt.strip() or strings.PIPELINE_PROMPT),), max_tokens=MAX_TOKENS)
            simulated = scenario != LOCAL_PROVIDER
            validated = ValidatedQuestion(self._scenarios.check_name(scenario), requests, "direct", simulated)
            probe, state_watch = Probe(self._answer_service.clock), _StateWatch(self._answer_service.clock())
            async with self._answer_service.open_answer(
                SLOT, validated, request, probe=probe, new_session=self._scenarios.new_session
            ) as opened:
                async with aclosing(self._stream_updates(opened.answer, panes, state_watch)) as frames:
                    async for frame in frames:
                        yield frame
                receipt = await opened.wait_receipt()
            diagrams = buffering_diagram.buffering_svg(probe.source, interval_ms / 1000)
            diagram, _ = state_watch.render_current(opened.answer)
            yield _last_update(receipt, panes, diagram, diagrams, simulated=simulated)
        except Exception as error:
            words, retry_after_s = self._answer_service.explain(error)
            yield _rejection_update(words, retry_after_s)

    async def stop(self, request: gr.Request) -> None:
        """Stop the stream."""
        await self._answer_service.page_sessions.get(request.session_hash).slot(SLOT).stop()

    async def _stream_updates(
        self, answer: PageAnswer, panes: Sequence[Pane], state_watch: "_StateWatch"
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
        play = PanePlayback(
            answer,
            panes,
            clock,
            lambda events, now: state_watch.on_events(events, answer, now),
            TICK_INTERVAL_S,
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
    """The states that an answer has passed, and the time of their next redraw."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._states = 0
        self._drawn_s = float("-inf")
        self._now_s = started_s
        self._note = ""
        self._text = False

    def on_events(self, events: Sequence[Event], answer: PageAnswer, now: float) -> None:
        """Record the events received at `now`, and force a redraw after a state change."""
        self._now_s = now
        if len(answer.session.states) > self._states:
            self._drawn_s = float("-inf")
        for event in events:
            self._text = self._text or isinstance(event, (TextDelta, ThinkingDelta))
            if isinstance(event, (Notice, Failed)) and event.kind != "connected":
                self._note = event.message

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
        line = html.stage_html(strings.STATES[states[-1]], self._now_s - self._started_s, self._note, kind=kind)
        return state_diagram.state_diagram_svg(states), line


def strategy_name(kind: str, interval_ms: float) -> str:
    """Return a strategy's full name, with the interval for the kinds that have one."""
    result = strategies.STRATEGIES.get(kind)
    return kind if result is None else buffering_diagram.with_interval(result, interval_ms)


def _last_update(
    receipt: Receipt, panes: Sequence[Pane], diagram: str, diagrams: str, *, simulated: bool
) -> PipelineUpdate:
    label = (f"{strings.SIMULATED_LABEL} · " if simulated else "") + html.outcome_label(receipt)
    kind = "good" if html.is_complete(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
    extra = receipt.error.message if receipt.error else ""
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
    line = html.stage_html(strings.NOT_ANSWERED, None, message, kind="bad", left_s=retry_after_s)
    return (*[gr.skip()] * 5, line, gr.skip(), gr.update(visible=HIDDEN_IN_DOM), escape(message))


def _stats_html(stats: PaneStats) -> str:
    delay = strings.UNKNOWN if stats.delay_mean_s is None else f"{stats.delay_mean_s * 1000:.0f} ms"
    longest = "" if stats.delay_max_s is None else strings.AT_MOST.format(ms=stats.delay_max_s * 1000)
    cells = [
        (strings.CHUNKS_IN, f"{stats.chunks:,}", ""),
        (strings.UPDATES_OUT, f"{stats.updates:,}", ""),
        (strings.BYTES, f"{stats.sent_bytes / 1000:.1f} kB", ""),
        (strings.ADDED_DELAY, delay, longest),
    ]
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(note)}</small></dd></div>"
        for name, value, note in cells
    )
    return f'<dl class="sg-meter sg-four">{rows}</dl>'
