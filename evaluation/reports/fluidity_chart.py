"""The fluidity curve: the share of an answer's tokens that are in time for readers of different paces."""

from collections.abc import Iterator, Sequence

import pandas as pd

from evaluation.analysis import statistics
from evaluation.metrics.cadence import Chunks
from evaluation.metrics.delivery import PACES_TPS
from evaluation.metrics.experience import TokenDeadlines, fluidity
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import Chart, Series
from evaluation.scenario import display_name

CURVE_PACES_TPS = (2, *PACES_TPS, 80, 160)
"""The reading paces of the curve in tokens/s: from slow reading to what only a program needs."""
MAX_ANSWERS = 100
"""Maximum number of answers that a curve is the mean of; they are spread over the run."""
_FAST_SHARE = 0.99
_TITLE = "Fluidity by reading pace"


def fluidity_chart(
    done: pd.DataFrame, events: pd.DataFrame, names: Sequence[str], strategies: Sequence[str], first_s: float
) -> Chart | None:
    """Return the chart of the completed trials, with a curve for each provider and strategy; None if all are 100 %.

    `first_s` is when the first text is due. Only answers with a known number of tokens count, as for the metric.
    """
    cells = list(_iter_cells(done, names, strategies))
    chosen = [trial_id for _, tokens in cells for trial_id in tokens.index]
    chunks = statistics.delivered_chunks(events[events["trial_id"].isin(chosen)])
    answers = {str(trial_id): own for trial_id, own in chunks.groupby("trial_id", sort=False, observed=True)}
    series, words = [], []
    for place, (title, tokens) in enumerate(cells):
        shares = _mean_shares(tokens, answers, first_s)
        if shares:
            series.append(Series(title, place, x=[*map(float, CURVE_PACES_TPS)], y=[round(100 * s, 2) for s in shares]))
            words.append(f"{title} {_pace_text(shares)}")
    if not any(value != 100 for one in series for value in one.y):
        return None
    note = (
        f"The mean of completed answers: the first text is due {formatting.format_ms(first_s)} ms after the request, "
        "each further token 1/pace s later, and a late token also misses the deadlines that passed before it came."
    )
    if max(len(tokens) for _, tokens in cells) == MAX_ANSWERS:
        note += f" At most {MAX_ANSWERS} answers of each, spread over the run."
    return Chart(
        "fluidity", _TITLE, "line", "reading pace in tokens/s (logarithmic)", "% of tokens in time", series,
        f"99 % in time: {'; '.join(words)}.", note, log_x=True,
    )  # fmt: skip


def _iter_cells(
    done: pd.DataFrame, names: Sequence[str], strategies: Sequence[str]
) -> Iterator[tuple[str, "pd.Series[float]"]]:
    """Yield the title of each provider and strategy, and the number of tokens of each of its answers by trial id."""
    known = done.loc[done["answer_tokens"].fillna(0) > 0, ["trial_id", "name", "strategy", "answer_tokens"]]
    for name in names:
        for strategy in strategies:
            own = known[(known["name"] == name) & (known["strategy"] == strategy)]
            if len(own):
                title = f"{display_name(name)}, {strategy}" if len(strategies) > 1 else display_name(name)
                yield title, own.set_index("trial_id")["answer_tokens"].iloc[:: -(-len(own) // MAX_ANSWERS)]


def _mean_shares(tokens: "pd.Series[float]", answers: dict[str, pd.DataFrame], first_s: float) -> list[float]:
    """Return the mean fluidity at each pace, 0 to 1; nothing if no answer has a timestamp and a text."""
    texts = [
        (Chunks(own["at_s"].tolist(), [int(chars) for chars in own["chars"]]), int(count))
        for trial_id, count in tokens.items()
        if (own := answers.get(str(trial_id))) is not None and own["chars"].sum() > 0
    ]
    found = [[fluidity(*text, TokenDeadlines(first_s, 1 / pace)) for text in texts] for pace in CURVE_PACES_TPS]
    known = [[share for share in shares if share is not None] for shares in found]
    return [sum(shares) / len(shares) for shares in known if shares]


def _pace_text(shares: Sequence[float]) -> str:
    """Return the fastest of the paces up to which the share is at least 99 %."""
    fluid = 0
    for pace, share in zip(CURVE_PACES_TPS, shares, strict=True):
        if share < _FAST_SHARE:
            break
        fluid = pace
    if not fluid:
        return f"below {CURVE_PACES_TPS[0]} tokens/s"
    return f"{'at least' if fluid == CURVE_PACES_TPS[-1] else 'up to'} {fluid} tokens/s"
