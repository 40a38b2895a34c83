"""The pipeline tab's events: one stream, two strategies, and the state machine, live."""

import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from guard import Refusal
from streaming import strategies
from streaming.errors import UsageError
from streaming.events import Event, Failed, Notice, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest, Message
from streaming.meter import Rates
from streaming.pipeline import Answer, answer
from streaming.probe import Probe
from streaming.states import State
from ui import buffering, figures, machine, texts
from ui.chat import HIDDEN
from ui.desk import TICK_S, Desk
from ui.play import Play
from ui.questions import LOCAL
from ui.scenarios import Scenarios
from ui.sides import Side, Tally

PLACE = "pipeline"
REFRESH_S = 0.25
MAX_TOKENS = 200
SHOWN_CHARS = 10_000
_FREE: Mapping[str, Rates] = {}
"""What is played here has no price: its tokens are counted against this service's budgets, as in the chat."""

log = logging.getLogger(__name__)

Frame = tuple[Any, ...]
"""One update of the tab: both texts, both figures, machine, stage line, pictures, Stop, announcement."""


class Pipeline:
    """Plays a scenario into two strategies at once."""

    def __init__(self, desk: Desk, scenarios: Scenarios) -> None:
        self._desk = desk
        self._scenarios = scenarios

    async def run(
        self, scenario: str, left: str, right: str, interval_ms: float, prompt: str, request: gr.Request
    ) -> AsyncGenerator[Frame, None]:
        """Play, and show both sides; Stop, or the stream's end, ends it."""
        lane = self._desk.visitors.of(request.session_hash).lane(PLACE)
        try:
            sides = [Side(strategies.parse(strategy_name(kind, interval_ms)).make()) for kind in (left, right)]
            question = ChatRequest((Message("user", prompt.strip() or texts.PIPELINE_PROMPT),), max_tokens=MAX_TOKENS)
            session = self._scenarios.session(scenario)
            reserved = await self._desk.reserved(question, _FREE, request)
            answered = answer(
                reserved.request if reserved else question,
                session,
                strategies.parse("direct").make(),
                clock=self._desk.clock,
                probe=(probe := Probe(self._desk.clock)),
                filter=self._desk.output_filter(),
                before_retry=reserved.renew if reserved else None,
            )
            try:
                await lane.begin(answered)
                watch = _Watch(self._desk.clock())
                async with aclosing(self._frames(answered, sides, watch)) as frames:
                    async for frame in frames:
                        yield frame
                await lane.settled()
                pictures = buffering.pictures(probe.source, interval_ms / 1000)
                yield _last(answered, sides, watch, pictures, simulated=scenario != LOCAL)
            finally:
                if reserved is not None:
                    await reserved.settle(answered.charge())
        except Refusal as refusal:
            yield _refused(figures.sentence(refusal.message), refusal.retry_after_s)
        except UsageError as error:
            yield _refused(str(error))
        except Exception:
            log.exception("the pipeline tab broke")
            yield _refused(texts.DEFECT)

    async def stop(self, request: gr.Request) -> None:
        """End the stream."""
        await self._desk.visitors.of(request.session_hash).lane(PLACE).stop()

    async def _frames(self, answered: Answer, sides: Sequence[Side], watch: "_Watch") -> AsyncGenerator[Frame, None]:
        """Yield whenever a side has more to show, and at least every tick."""
        clock = self._desk.clock
        tallies = [_tally(side.tally()) for side in sides]
        yield ("", "", *tallies, *watch.drawn(answered), "", gr.update(visible=True), texts.STATES["streaming"])
        play = Play(answered, sides, clock, lambda events, now: watch.see(events, answered, now), TICK_S)
        told = [0] * len(sides)
        async with aclosing(answered), aclosing(play.changes()) as changes:
            async for _ in changes:
                for drawn in watch.passed(answered):
                    yield (*[gr.skip()] * 4, *drawn, *[gr.skip()] * 3)
                grown = [len(side.text) > chars for side, chars in zip(sides, told, strict=True)]
                told = [len(side.text) for side in sides]
                shown = [_shown(side.text) if more else gr.skip() for side, more in zip(sides, grown, strict=True)]
                if watch.due(clock()):
                    figures_of = [_tally(side.tally()) for side in sides]
                    yield (*shown, *figures_of, *watch.drawn(answered), *[gr.skip()] * 3)
                elif any(grown):
                    yield (*shown, *[gr.skip()] * 7)


class _Watch:
    """What the state machine went through, and when it is time to draw again."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._states = 0
        self._drawn_s = float("-inf")
        self._now_s = started_s
        self._note = ""
        self._text = False

    def see(self, events: Sequence[Event], answered: Answer, now: float) -> None:
        self._now_s = now
        if len(answered.session.states) > self._states:
            self._drawn_s = float("-inf")
        for event in events:
            self._text = self._text or isinstance(event, (TextDelta, ThinkingDelta))
            if isinstance(event, (Notice, Failed)) and event.kind != "connected":
                self._note = event.message

    def due(self, now: float) -> bool:
        return now - self._drawn_s >= REFRESH_S

    def passed(self, answered: Answer) -> Iterator[tuple[str, str]]:
        """Give machine and stage line in each state that came and went since they were drawn."""
        for count in range(self._states + 1, len(answered.session.states)):
            yield self._drawn(answered.session.states[:count])

    def drawn(self, answered: Answer) -> tuple[str, str]:
        """Give the machine and the stage line."""
        self._drawn_s = self._now_s
        return self._drawn([*answered.session.states])

    def _drawn(self, states: Sequence[State]) -> tuple[str, str]:
        self._states = len(states)
        kind = "coming" if self._text and states[-1] == "streaming" else "busy"
        line = figures.stage(texts.STATES[states[-1]], self._now_s - self._started_s, self._note, kind=kind)
        return machine.svg(states), line


def strategy_name(kind: str, interval_ms: float) -> str:
    """Give a strategy's full name: the interval is of those that have one."""
    return f"{kind}:{interval_ms:g}ms" if kind in ("batch", "debounce") else kind


def _last(answered: Answer, sides: Sequence[Side], watch: _Watch, pictures: str, *, simulated: bool) -> Frame:
    receipt = answered.receipt()
    said = (f"{texts.SIMULATED_LABEL} · " if simulated else "") + figures.ending(receipt)
    kind = "good" if figures.whole(receipt) else "idle" if receipt.outcome == "cancelled" else "bad"
    extra = receipt.error.message if receipt.error else ""
    drawn, _ = watch.drawn(answered)
    line = figures.stage(said, None, extra, kind=kind)
    tallies = [_tally(side.tally()) for side in sides]
    return (
        *(_shown(side.text) for side in sides),
        *tallies,
        drawn,
        line,
        pictures,
        gr.update(visible=HIDDEN),
        said,
    )


def _shown(text: str) -> str:
    """Give what of a text is drawn: a box of millions of characters would hold up the browser."""
    if len(text) <= SHOWN_CHARS:
        return text
    return text[:SHOWN_CHARS] + texts.SHOWN_CUT.format(chars=len(text))


def _refused(message: str, retry_after_s: float | None = None) -> Frame:
    line = figures.stage(texts.NOT_ANSWERED, None, message, kind="bad", left_s=retry_after_s)
    return (*[gr.skip()] * 5, line, gr.skip(), gr.update(visible=HIDDEN), escape(message))


def _tally(tally: Tally) -> str:
    delay = texts.UNKNOWN if tally.delay_mean_s is None else f"{tally.delay_mean_s * 1000:.0f} ms"
    longest = "" if tally.delay_max_s is None else texts.AT_MOST.format(ms=tally.delay_max_s * 1000)
    cells = [
        (texts.CHUNKS_IN, f"{tally.chunks:,}", ""),
        (texts.UPDATES_OUT, f"{tally.updates:,}", ""),
        (texts.BYTES, f"{tally.sent_bytes / 1000:.1f} kB", ""),
        (texts.ADDED_DELAY, delay, longest),
    ]
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(note)}</small></dd></div>"
        for name, value, note in cells
    )
    return f'<dl class="sg-meter sg-four">{rows}</dl>'
