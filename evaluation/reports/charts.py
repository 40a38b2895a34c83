"""The charts of a report as plain numbers; the HTML page and the PNG files draw the same charts.

A chart has at most a few thousand numbers, whatever the size of the run. If points are left out, its note says so;
boxes, shares and the numbers in the caption are always computed from all values.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, trial_names, verdicts
from evaluation.analysis.statistics import Floats
from evaluation.analysis.throughput import load_levels
from evaluation.metrics.experience import TokenDeadlines
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import (
    BOX_NOTE,
    MAX_LINES,
    MAX_POINTS,
    SPEED_COLUMNS,
    Chart,
    Series,
    box,
    cost_chart,
    delay_chart,
    known_values,
    median_speed_text,
    round_values,
    sampling_note,
    strategy_charts,
    timeline_chart,
)
from evaluation.reports.conversations import conversation_charts
from evaluation.reports.fluidity_chart import fluidity_chart
from evaluation.reports.load_charts import load_charts
from evaluation.reports.painting import painting_charts
from evaluation.reports.server_side import server_charts
from evaluation.reports.sweep import sweep_charts
from evaluation.scenario import display_name
from evaluation.tables import Run, escape_run
from streaming.escaping import to_line

_BINS_PER_DECADE = 12
_MIN_GAP_MS = 0.01


def build_charts(run: Run) -> list[Chart]:
    """Return the charts for which a run has data; their texts are plain, and each output format must escape them."""
    levels = load_levels(run)
    run = escape_run(run, to_line)
    trials, names = trial_names.add_transport_names(run, run.trials)
    done = trials[trials["outcome"] == "completed"]
    load = load_charts(run, trials) if run.manifest.get("kind") == "load" and len(trials) else []
    if not len(done):
        return load
    strategies = trial_names.order_values(run, "strategies", done["strategy"])
    due = run.manifest.get("measures", {}).get("fluidity", {}).get("first_s", TokenDeadlines().first_s)
    fluid = fluidity_chart(done, run.events, names, strategies, due)
    found: list[Chart | None]
    if run.is_replay:
        found = [delay_chart(done, names, strategies), *strategy_charts(done, names, strategies), fluid]
    else:
        texts = _text_arrivals(run, done)
        found = [
            *sweep_charts(levels),
            *server_charts(run),
            *conversation_charts(run),
            _answer_chart(run, trials, names),
            _progress_chart(done, names, texts),
            *_gap_charts(done, names, texts),
        ]
        found += painting_charts(done, names, strategies)
        found += [delay_chart(done, names, strategies), fluid, cost_chart(done, names)]
        found.append(timeline_chart(trials, names, texts))
    return [*load, *(chart for chart in found if chart is not None)]


def _text_arrivals(run: Run, done: pd.DataFrame) -> pd.DataFrame:
    """Return the text chunks as they arrived, with the gap before each chunk and the provider's name."""
    return statistics.arrival_chunks(run.events, run.trials).merge(done[["trial_id", "name"]], on="trial_id")


def _answer_chart(run: Run, trials: pd.DataFrame, names: list[str]) -> Chart | None:
    """Return the chart of the time to answer text, with a box for each provider, fresh and repeated prompts apart."""
    column = verdicts.first_text_column(run)
    trials = trial_names.add_population_column(run, trials[trials["outcome"] != "cancelled"])
    trials = trials[["name", "population", "outcome", "prompt_id", column]]
    series, words, counts = [], [], []
    for name in names:
        for population in trial_names.populations(trials):
            cell = trials[(trials["name"] == name) & (trials["population"] == population)]
            values = known_values(cell.loc[cell["outcome"] == "completed", column]) * 1000
            if not len(values):
                continue
            place = display_name(name) if population == "all" else f"{display_name(name)}, {population} prompts"
            series.append(box(display_name(name), names.index(name), place, values))
            words.append(f"{place} {_median_ms_text(cell, column)}")
            counts.append(len(values))
    if not series:
        return None
    title = "Time to first answer text" if column == verdicts.ANSWER_TEXT else "Time to first token (TTFT)"
    note = BOX_NOTE + sampling_note(series, counts)
    return Chart(
        "ttft", title, "box", "ms after the request was sent", "", series, f"Median: {'; '.join(words)}.", note
    )


def _median_ms_text(cell: pd.DataFrame, column: str) -> str:
    """Return the median with its interval and the largest percentile that the trials carry; failures are last."""
    values, prompts = statistics.column_values(cell, column, failures=True), cell["prompt_id"].tolist()
    percent = statistics.largest_quantile(statistics.independent_units(prompts))
    tail = statistics.quantile(values, percent, prompts).value if percent > 50 else None
    middle = formatting.format_interval(statistics.median(values, prompts), in_ms=True)
    failed = int((cell["outcome"] != "completed").sum())
    notes = [f"p{percent:g} {formatting.format_ms(tail)}"] if tail is not None else []
    return f"{middle} ms ({', '.join([*notes, f'n = {len(cell)}', *([f'{failed} failed'] if failed else [])])})"


def _progress_chart(done: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> Chart | None:
    """Return the chart of the text over time, in tokens if all trials have a known number, else in characters."""
    known = done[done["token_source"].isin(["reported", "counted"]) & done["output_tokens"].notna()]
    in_tokens = set(done["trial_id"]) == set(known["trial_id"])
    answer = (known["output_tokens"] - known["thinking_tokens"].fillna(0)).astype("float64")
    tokens = dict(zip(known["trial_id"], answer, strict=True))
    series = []
    for name in names:
        ids = done.loc[done["name"] == name, "trial_id"].drop_duplicates()
        own = texts[texts["trial_id"].isin(ids.iloc[:MAX_LINES])]
        line = Series(display_name(name), names.index(name))
        for trial_id, chunks in own.groupby("trial_id", sort=False):
            upto = np.cumsum(np.asarray(chunks["chars"], dtype=np.float64))
            scale = tokens[str(trial_id)] / upto[-1] if in_tokens and upto[-1] else 1.0
            step = max(1, len(upto) // (MAX_POINTS // 2))
            line.x.extend(round(float(x), 4) for x in [*chunks["at_s"].iloc[::step], chunks["at_s"].iloc[-1]])
            line.y.extend(round(float(y), 2) for y in [*(upto * scale)[::step], upto[-1] * scale])
            line.x.append(line.x[-1])
            line.y.append(None)
        if line.x:
            series.append(line)
    if not series:
        return None
    drawn = [n for n in names if any(one.name == display_name(n) for one in series)]
    speeds = done[["name", *SPEED_COLUMNS]]
    words = [f"{display_name(n)} {median_speed_text(speeds[speeds['name'] == n])}" for n in drawn]
    unit = "tokens" if in_tokens else "characters"
    note = f"The first {MAX_LINES} answers of each; a flat section is a gap."
    note += " An answer's tokens are spread evenly over its text." if in_tokens else " Tokens are not known for all."
    return Chart(
        "progress",
        f"Answer length over time, in {unit}",
        "line",
        "seconds after the request was sent",
        unit,
        series,
        f"Median speed after the first token: {'; '.join(words)}.",
        note,
    )


def _gap_charts(done: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> list[Chart]:
    """Return the charts of all gaps pooled: a histogram with logarithmic bins, and the cumulative distribution."""
    every = [(name, known_values(texts.loc[texts["name"] == name, "gap_s"]) * 1000) for name in names]
    cells = [(name, np.maximum(gaps, _MIN_GAP_MS)) for name, gaps in every if len(gaps)]
    if not cells:
        return []
    edges = _bin_edges([gaps for _, gaps in cells])
    percent = np.linspace(0, 100, MAX_POINTS)
    bars, curves, words = [], [], []
    for name, gaps in cells:
        share = np.histogram(gaps, edges)[0] / len(gaps) * 100
        bars.append(Series(display_name(name), names.index(name), x=round_values(edges), y=[*round_values(share), 0.0]))
        upto = round_values(np.percentile(gaps, percent))
        curves.append(Series(display_name(name), names.index(name), x=upto, y=[*round_values(percent)]))
        percentiles = "/".join(formatting.format_number(float(x)) for x in np.percentile(gaps, [50, 95, 99]))
        words.append(f"{display_name(name)} {percentiles} ms (n = {len(gaps)})")
    caption = f"p50/p95/p99: {'; '.join(words)}."
    note = (
        f"Gaps between chunks of text as they arrived, all pooled; those under {_MIN_GAP_MS} ms are drawn there. "
        f"A chunk is not a token.{formatting.transport_note(names)}"
    )
    title, axis = "Inter-chunk latency", "ms between two chunks (logarithmic)"
    read = "The percentage of gaps that are no longer than this."
    return [
        Chart("gaps", title, "step", axis, "% of gaps", bars, caption, note, log_x=True),
        Chart(
            "gaps-ecdf", "Inter-chunk latency, cumulative", "line", axis, "% of gaps", curves, caption, read, log_x=True
        ),
    ]


def _bin_edges(cells: Sequence[Floats]) -> Floats:
    """Return the edges of logarithmic bins over whole powers of ten."""
    low = np.floor(min(np.log10(gaps.min()) for gaps in cells))
    high = np.ceil(max(np.log10(gaps.max()) for gaps in cells) + 1e-9)
    edges: Floats = np.logspace(low, high, int(max(high - low, 1) * _BINS_PER_DECADE) + 1)
    return edges
