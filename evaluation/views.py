"""What the plots of a report show, as plain numbers: the HTML page and the PNGs draw the same views.

A view has at most some thousand numbers, whatever the run has; where points were left out its note says so, and boxes,
shares and the numbers in the caption are always those of all values.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from evaluation import statistics, summary, wording
from evaluation.escaping import to_line
from evaluation.provenance import is_what_if
from evaluation.scenario import label
from evaluation.statistics import Floats
from evaluation.tables import Run, escape_run
from evaluation.view import BOXES, MOST_LINES, MOST_POINTS, Series, View, box, numbers, sampled, short, speed
from evaluation.views_of_runs import by_strategy, cost, delay, timeline

_BINS_PER_DECADE = 12
_LEAST_GAP_MS = 0.01


def views(run: Run) -> list[View]:
    """Give the plots that a run has the numbers for; their text is plain, and each format escapes it once more."""
    run = escape_run(run, to_line)
    trials, names = summary.told_apart(run, run.trials)
    done = trials[trials["outcome"] == "completed"]
    if not len(done):
        return []
    strategies = summary.in_order(run, "strategies", done["strategy"])
    found: list[View | None]
    if is_what_if(run):
        found = [delay(done, names, strategies), *by_strategy(done, names, strategies)]
    else:
        texts = _texts(run, done)
        found = [_ttft(done, names), _progress(done, names, texts), *_gaps(done, names, texts)]
        found += [delay(done, names, strategies), cost(done, names), timeline(trials, names, texts)]
    return [view for view in found if view is not None]


def _texts(run: Run, done: pd.DataFrame) -> pd.DataFrame:
    """Give the answer text as it arrived, chunk by chunk, with the gap before each chunk."""
    return statistics.arrivals(run.events).merge(done[["trial_id", "name"]], on="trial_id")


def _ttft(done: pd.DataFrame, names: list[str]) -> View | None:
    cells = [(n, numbers(done.loc[done["name"] == n, "ttft_s"]) * 1000) for n in names]
    cells = [(name, values) for name, values in cells if len(values)]
    if not cells:
        return None
    series = [box(label(name), names.index(name), label(name), values) for name, values in cells]
    words = [f"{label(name)} {_median_ms(done[done['name'] == name], values)}" for name, values in cells]
    note = BOXES + sampled(series, [len(values) for _, values in cells])
    title = "How long until the first token (TTFT)"
    return View("ttft", title, "box", "ms after the request was sent", "", series, f"Median: {'; '.join(words)}.", note)


def _median_ms(cell: pd.DataFrame, values: Floats) -> str:
    p95 = wording.number(float(np.percentile(values, 95)))
    return f"{wording.span(statistics.of(cell, 'ttft_s'), in_ms=True)} ms (p95 {p95}, n = {len(values)})"


def _progress(done: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> View | None:
    """Draw tokens where they are known: an answer's tokens spread evenly over its characters; else characters."""
    known = done[done["token_source"].isin(["reported", "counted"]) & done["output_tokens"].notna()]
    in_tokens = set(done["trial_id"]) == set(known["trial_id"])
    answer = (known["output_tokens"] - known["thinking_tokens"].fillna(0)).astype("float64")
    tokens = dict(zip(known["trial_id"], answer, strict=True))
    series = []
    for name in names:
        ids = done.loc[done["name"] == name, "trial_id"].drop_duplicates()
        own = texts[texts["trial_id"].isin(ids.iloc[:MOST_LINES])]
        line = Series(label(name), names.index(name))
        for trial_id, chunks in own.groupby("trial_id", sort=False):
            upto = np.cumsum(np.asarray(chunks["chars"], dtype=np.float64))
            scale = tokens[str(trial_id)] / upto[-1] if in_tokens and upto[-1] else 1.0
            step = max(1, len(upto) // (MOST_POINTS // 2))
            line.x.extend(round(float(x), 4) for x in [*chunks["at_s"].iloc[::step], chunks["at_s"].iloc[-1]])
            line.y.extend(round(float(y), 2) for y in [*(upto * scale)[::step], upto[-1] * scale])
            line.x.append(line.x[-1])
            line.y.append(None)
        if line.x:
            series.append(line)
    if not series:
        return None
    told = {one.name for one in series}
    words = [f"{label(n)} {speed(done[done['name'] == n])}" for n in names if label(n) in told]
    unit = "tokens" if in_tokens else "characters"
    note = f"The first {MOST_LINES} answers of each; a flat stretch is silence."
    note += " An answer's tokens are spread evenly over its text." if in_tokens else " Tokens are not known for all."
    return View(
        "progress",
        f"How the answers grew, in {unit}",
        "line",
        "seconds after the request was sent",
        unit,
        series,
        f"Median speed after the first token: {'; '.join(words)}.",
        note,
    )


def _gaps(done: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> list[View]:
    """Draw all gaps pooled, as shares of logarithmic bins and cumulated."""
    every = [(name, numbers(texts.loc[texts["name"] == name, "gap_s"]) * 1000) for name in names]
    cells = [(name, np.maximum(gaps, _LEAST_GAP_MS)) for name, gaps in every if len(gaps)]
    if not cells:
        return []
    edges = _edges([gaps for _, gaps in cells])
    percent = np.linspace(0, 100, MOST_POINTS)
    bars, curves, words = [], [], []
    for name, gaps in cells:
        share = np.histogram(gaps, edges)[0] / len(gaps) * 100
        bars.append(Series(label(name), names.index(name), x=short(edges), y=[*short(share), 0.0]))
        upto = short(np.percentile(gaps, percent))
        curves.append(Series(label(name), names.index(name), x=upto, y=[*short(percent)]))
        figures = "/".join(wording.number(float(x)) for x in np.percentile(gaps, [50, 95, 99]))
        words.append(f"{label(name)} {figures} ms (n = {len(gaps)})")
    caption = f"p50/p95/p99: {'; '.join(words)}."
    note = (
        f"Gaps between chunks of text as they arrived, all pooled; those under {_LEAST_GAP_MS} ms are drawn there. "
        f"A chunk is not a token.{wording.over_wires(names)}"
    )
    title, axis = "How even the stream was: gaps between chunks", "ms between two chunks (logarithmic)"
    read = "Read: so many percent of the gaps were no longer than this."
    return [
        View("gaps", title, "step", axis, "% of gaps", bars, caption, note, log_x=True),
        View("gaps-ecdf", "The same gaps, cumulated", "line", axis, "% of gaps", curves, caption, read, log_x=True),
    ]


def _edges(cells: Sequence[Floats]) -> Floats:
    """Give bins over whole powers of ten."""
    low = np.floor(min(np.log10(gaps.min()) for gaps in cells))
    high = np.ceil(max(np.log10(gaps.max()) for gaps in cells) + 1e-9)
    edges: Floats = np.logspace(low, high, int(max(high - low, 1) * _BINS_PER_DECADE) + 1)
    return edges
