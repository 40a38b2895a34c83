"""Updates of the compare tab beside those of an answer under way: a round starts, ends, is voted on or is removed."""

from dataclasses import dataclass, fields
from html import escape
from typing import Any, Generic, TypeVar

import gradio as gr

from ui import components, html, strings
from ui.compare import charts, columns, results, verdicts
from ui.compare.round import COLUMN_LETTERS, PageComparison, Round, Vote, bad_label
from ui.components import HIDDEN_IN_DOM

COLUMNS, PLOTS = len(COLUMN_LETTERS), 4

T = TypeVar("T")

RoundUpdate = tuple[Any, ...]
"""One value for each component of `RoundParts`, in the order of its fields."""


@dataclass(slots=True, kw_only=True)
class RoundParts(Generic[T]):
    """What an event of a whole round may change: the components on the page, or their values.

    The lists have an item for each column, `plots` one for each chart.
    """

    boxes: list[T]
    heads: list[T]
    answers: list[T]
    stages: list[T]
    metrics: list[T]
    stops: list[T]
    letters: list[T]
    plots: list[T]
    form: T
    prompt: T
    announcement: T
    errors: T
    ask: T
    stop_all: T
    ballot: T
    ballot_words: T
    bad: T
    voted: T
    spent: T
    results: T

    def flatten(self) -> list[T]:
        """Return all parts in the order of the fields."""
        out: list[T] = []
        for one in fields(self):
            value = getattr(self, one.name)
            out += value if isinstance(value, list) else [value]
        return out


def build_rejection(problem: str) -> RoundUpdate:
    """Return the update for a prompt that is not sent: its text is kept, and nothing else changes."""
    if not problem:
        return build_unchanged()
    return _update(errors=html.error_badge(problem), announcement=escape(problem))


def build_start(comparison: PageComparison) -> RoundUpdate:
    """Return the update for a round that starts: its columns, Stop all in place of Send, and no results."""
    this_round = comparison.round
    assert this_round is not None, "a round has started"
    count = len(this_round.columns)
    hidden = gr.update(visible=False)
    ask, stop_all = send_buttons(running=True)
    return _update(
        boxes=[gr.update(visible=number < count) for number in range(COLUMNS)],
        heads=[columns.heading_html(this_round, number) for number in range(COLUMNS)],
        plots=[hidden] * PLOTS,
        form=gr.update(open=False),
        prompt=gr.update(value="", placeholder=strings.COMPARE_FOLLOW_UP),
        announcement=strings.COMPARE_ASKED.format(count=count),
        errors="",
        ask=ask,
        stop_all=stop_all,
        ballot=hidden,
        voted=hidden,
        results=hidden,
    )


def build_end(comparison: PageComparison, spent: str) -> RoundUpdate:
    """Return the update for a round whose answers have all ended: its vote, and its results unless it is blind."""
    this_round = comparison.round
    assert this_round is not None, "a round has ended"
    parts = _result_parts(comparison, spent) if this_round.revealed else {}
    if this_round.blind and this_round.revealed:
        parts |= _column_parts(this_round)
    ask, stop_all = send_buttons(running=False)
    count = len(this_round.columns)
    return _update(
        **parts,
        letters=[gr.update(visible=number < count) for number in range(COLUMNS)],
        bad=gr.update(value=bad_label(count)),
        announcement=escape(strings.COMPARE_DONE),
        ask=ask,
        stop_all=stop_all,
        ballot=gr.update(visible=this_round.can_be_voted_on),
        ballot_words=f"<p>{escape(strings.COMPARE_VOTE)}</p>{_simulated_note(this_round)}",
    )


def build_vote(comparison: PageComparison, spent: str) -> RoundUpdate:
    """Return the update after a vote: names, receipts, reasons and results of all columns, and the vote itself."""
    this_round = comparison.round
    assert this_round is not None, "a round has been voted on"
    words = strings.VOTED.format(winner=comparison.votes[-1].winner)
    return _update(
        **_column_parts(this_round),
        **_result_parts(comparison, spent),
        announcement=escape(words),
        ballot=gr.update(visible=False),
        voted=gr.update(value=f'<p class="sg-voted">{escape(words)}</p>{_simulated_note(this_round)}', visible=True),
    )


def build_empty() -> RoundUpdate:
    """Return the update to an empty comparison; the form and the prompt under way are kept."""
    hidden = gr.update(visible=False)
    ask, stop_all = send_buttons(running=False)
    return _update(
        heads=[columns.heading_html(None, number) for number in range(COLUMNS)],
        answers=[[]] * COLUMNS,
        stages=[columns.stage_html(None)] * COLUMNS,
        metrics=[columns.metrics_html(None)] * COLUMNS,
        stops=[gr.update(visible=HIDDEN_IN_DOM)] * COLUMNS,
        plots=[hidden] * PLOTS,
        form=gr.update(open=True),
        prompt=gr.update(placeholder=strings.COMPARE_PLACEHOLDER),
        errors="",
        ask=ask,
        stop_all=stop_all,
        ballot=hidden,
        voted=hidden,
        results=hidden,
    )


def build_unchanged() -> RoundUpdate:
    """Return the update that changes nothing."""
    return _update()


def _simulated_note(this_round: Round) -> str:
    """Render which of the answers that are compared no model has written; empty for answers of one kind."""
    letters = this_round.simulated_letters()
    return f'<p class="sg-note">{escape(strings.VOTE_SIMULATED.format(letters=letters))}</p>' if letters else ""


def send_buttons(*, running: bool) -> tuple[Any, Any]:
    """Return updates of Send and of Stop all, which takes its place while answers are under way."""
    return gr.update(visible=HIDDEN_IN_DOM if running else True), gr.update(visible=True if running else HIDDEN_IN_DOM)


def _update(**parts: Any) -> RoundUpdate:
    skip = gr.skip()
    lists: dict[str, Any] = {
        name: [skip] * COLUMNS for name in ("boxes", "heads", "answers", "stages", "metrics", "stops", "letters")
    }
    single = {one.name: skip for one in fields(RoundParts)}
    return tuple(RoundParts(**{**single, **lists, "plots": [skip] * PLOTS, **parts}).flatten())


def _column_parts(this_round: Round) -> dict[str, list[Any]]:
    """Return heads, messages, stage lines and metrics of all columns, whose names are shown."""
    unused = [gr.skip()] * (COLUMNS - len(this_round.columns))
    shown = this_round.columns
    return {
        "heads": [columns.heading_html(this_round, number) for number in range(COLUMNS)],
        "answers": [*(columns.messages(column, revealed=True) for column in shown), *unused],
        "stages": [*map(columns.stage_html, shown), *unused],
        "metrics": [*(columns.metrics_html(column, revealed=True) for column in shown), *unused],
    }


def _result_parts(comparison: PageComparison, spent: str) -> dict[str, Any]:
    """Return results, charts and spending of the current round, whose names are shown."""
    this_round = comparison.round
    assert this_round is not None, "there are results of a round"
    drawn = charts.round_charts(this_round)
    plots = [gr.update(visible=False) if plot is None else gr.update(value=plot, visible=True) for plot in drawn]
    return {
        "results": gr.update(value=_results_html(comparison, this_round), visible=True),
        "plots": plots,
        "spent": spent,
    }


def _results_html(comparison: PageComparison, this_round: Round) -> str:
    header, rows, marked = results.comparison_table(this_round)
    parts = [
        components.html_table(header, rows, marked=marked),
        f'<p class="sg-note">{escape(strings.COMPARE_NOTE)}</p>',
        f"<h2>{escape(strings.VERDICTS)}</h2>",
        verdicts.verdicts_html(this_round, comparison.rounds),
        _votes_html(comparison.votes) if comparison.votes else "",
    ]
    return "".join(parts)


def _votes_html(votes: list[Vote]) -> str:
    rows = [
        [vote.winner, ", ".join(vote.names), strings.YES_NO[vote.blind], html.truncate(vote.prompt)] for vote in votes
    ]
    table = components.html_table([*strings.VOTES_HEADER], rows)
    return f'<h2>{escape(strings.VOTES)}</h2><div id="sg-votes">{table}</div>'
