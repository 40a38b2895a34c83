"""The plots that compare strategies, cost and the course of a run. See `views`."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from evaluation import wording
from evaluation.measures import STALL_MEDIANS, STALL_S
from evaluation.scenario import label
from evaluation.view import BOXES, MOST_POINTS, Series, View, box, numbers, sampled, short, some, speed


def delay(done: pd.DataFrame, names: list[str], strategies: list[str]) -> View | None:
    """Draw how long each strategy held the text."""
    title = "What the strategy costs: how long it held the text"
    return _strategy_view(
        done, names, strategies, "delay", title, "delay_mean_s", "ms that a character was held, mean of an answer", 1000
    )


def by_strategy(done: pd.DataFrame, names: list[str], strategies: list[str]) -> Iterator[View | None]:
    """Draw what else the reader gets of each strategy."""
    title = "When the reader saw the first text"
    after = "ms after the request was sent"
    yield _strategy_view(done, names, strategies, "first-text", title, "delivered_ttft_s", after, 1000)
    title = "How often the reader's text changed"
    yield _strategy_view(done, names, strategies, "updates", title, "updates_per_s", "updates a second", 1)


def _strategy_view(
    done: pd.DataFrame,
    names: list[str],
    strategies: list[str],
    id_: str,
    title: str,
    column: str,
    x_title: str,
    scale: float,
) -> View | None:
    series, words, counts = [], [], []
    for strategy in strategies:
        for name in names:
            values = numbers(done.loc[(done["name"] == name) & (done["strategy"] == strategy), column]) * scale
            if not len(values):
                continue
            place = f"{strategy} · {label(name)}" if len(names) > 1 else str(strategy)
            series.append(box(label(name), names.index(name), place, values))
            words.append(f"{place} {wording.number(float(np.median(values)))}")
            counts.append(len(values))
    if not series:
        return None
    return View(id_, title, "box", x_title, "", series, f"Median: {'; '.join(words)}.", BOXES + sampled(series, counts))


def cost(done: pd.DataFrame, names: list[str]) -> View | None:
    """Draw cost for 1000 answers against speed, where both are known."""
    priced = done[done["cost_usd"].notna() & done["output_tps"].notna()]
    if not len(priced):
        return None
    series, words = [], []
    for name in names:
        own = priced[priced["name"] == name]
        if len(own):
            kept = own.sample(min(len(own), MOST_POINTS), random_state=0)
            x, y = numbers(kept["cost_usd"]) * 1000, numbers(kept["output_tps"])
            series.append(Series(label(name), names.index(name), x=short(x), y=[*short(y)]))
            words.append(
                f"{label(name)} {wording.usd(round(float(own['cost_usd'].median()) * 1000, 6))} USD, {speed(own)}"
            )
    unpriced = [label(name) for name in names if name in set(done["name"]) - set(priced["name"])]
    note = "Every point is an answer; higher is faster, further left is cheaper."
    note += f" Not here, for want of a price or of known tokens: {', '.join(unpriced)}." if unpriced else ""
    return View(
        "cost",
        "Cost against speed",
        "point",
        "USD for 1000 such answers",
        "tokens/s",
        series,
        f"Median for 1000 answers: {'; '.join(words)}.",
        note,
    )


def timeline(trials: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> View | None:
    """Draw every stall where it happened in the run, and every answer that was not completed."""
    if not trials["sent_monotonic_s"].notna().any():
        return None
    start_s = trials["sent_monotonic_s"].min()
    sent_s = trials.set_index("trial_id")["sent_monotonic_s"] - start_s
    threshold_s = (texts.groupby("trial_id")["gap_s"].median() * STALL_MEDIANS).clip(lower=STALL_S)
    stalls = texts[texts["gap_s"] > texts["trial_id"].map(threshold_s).astype("float64")]
    series, words = [], []
    for place, name in enumerate(names):
        own = stalls[stalls["name"] == name].nlargest(MOST_POINTS, "gap_s")
        broken = trials[(trials["name"] == name) & (trials["outcome"] != "completed")]
        at_s = own["trial_id"].map(sent_s).astype("float64") + own["at_s"] - own["gap_s"]
        sizes = short(numbers(own["gap_s"]))
        series.append(Series(label(name), place, x=short(numbers(at_s)), y=[label(name)] * len(own), sizes=sizes))
        if len(broken):
            lost_s = some(numbers(broken["sent_monotonic_s"] - start_s))
            series.append(
                Series(f"{label(name)}: not completed", place, x=lost_s, y=[label(name)] * len(lost_s), failed=True)
            )
        count, seconds = int((stalls["name"] == name).sum()), float(stalls.loc[stalls["name"] == name, "gap_s"].sum())
        counted = f"{count} {'stall' if count == 1 else 'stalls'}"
        words.append(f"{label(name)} {counted}, {wording.number(seconds)} s of silence, {len(broken)} not completed")
    if not any(one.x for one in series):
        return None
    note = (
        f"A circle is a silence in a completed answer, of over {STALL_S:g} s and of over {STALL_MEDIANS:g} of its "
        "median gaps; the larger, the longer. A cross is an answer that was not completed. At most "
        f"{MOST_POINTS} of each are drawn."
    )
    return View(
        "stalls", "When it stalled", "point", "seconds since the run began", "", series, f"{'; '.join(words)}.", note
    )
