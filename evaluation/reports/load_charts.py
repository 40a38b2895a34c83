"""Charts of a load test over time: its users, its rate of answers and its failures."""

import numpy as np
import pandas as pd

from evaluation.analysis.statistics import Floats
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import Chart, Series, round_values
from evaluation.tables import Run

_BINS = 60
"""The largest number of intervals in which answers are counted."""
_POINTS = 240
_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_FAILED_GROUP = 6
"""The place of red in the palette."""


def load_charts(run: Run, trials: pd.DataFrame) -> list[Chart]:
    """Return the charts of users and of answers over time; none if the answers have no dates.

    Dates are the wall clock's, because the workers of a test may run on several machines.
    """
    dates = pd.to_datetime(trials["started_at"], utc=True, format="ISO8601", errors="coerce")
    dated = trials[dates.notna()]
    if not len(dated):
        return []
    start_s = np.asarray((dates[dates.notna()] - dates.min()).dt.total_seconds(), dtype=np.float64)
    at_s = run.events[["source_s", "delivered_s"]].max(axis=1)
    last_s = dated["trial_id"].map(at_s.groupby(run.events["trial_id"], observed=True).max()).astype("float64")
    lasted_s = dated["e2e_s"].astype("float64").fillna(last_s).fillna(0.0)  # a failed answer ends with its last event
    end_s = start_s + np.asarray(lasted_s, dtype=np.float64)
    return [_users_chart(run, start_s, end_s), _rate_chart(dated, end_s)]


def _users_chart(run: Run, start_s: Floats, end_s: Floats) -> Chart:
    """Return the chart of the answers under way: of each interval the most at one time."""
    at_s = np.concatenate([start_s, end_s])
    steps = np.concatenate([np.ones(len(start_s)), -np.ones(len(end_s))])
    order = np.lexsort((steps, at_s))  # where one answer ends and the next begins, the end comes first
    at_s, running = at_s[order], np.cumsum(steps[order])
    edges = np.linspace(0.0, max(float(at_s[-1]), 1e-3), _POINTS + 1)
    before = np.searchsorted(at_s, edges[:-1], side="right") - 1
    until = np.searchsorted(at_s, edges[1:], side="right")
    most = [float(running[max(low, 0) : high].max(initial=0.0)) for low, high in zip(before, until, strict=True)]
    series = [Series("answers under way", 0, x=round_values(edges[:-1]), y=[*most])]
    users = run.manifest.get("load", {}).get("users")
    if isinstance(users, int):
        ends = [0.0, float(f"{edges[-1]:.5g}")]
        series.append(Series("users requested", 7, x=ends, y=[float(users), float(users)]))
    requested = f", of {users} users requested" if isinstance(users, int) else ""
    caption = f"At most {max(most):.0f} answers under way at once{requested}."
    note = "A user has one answer under way at a time, and none while it thinks."
    return Chart("load-users", "Users over time", "line", "seconds since the test began", "", series, caption, note)


def _rate_chart(trials: pd.DataFrame, end_s: Floats) -> Chart:
    """Return the chart of completed and failed answers a second, by the time of their end."""
    total_s = max(float(end_s.max()), 1.0)
    width_s = next((width for width in _WIDTHS_S if total_s / width <= _BINS), _WIDTHS_S[-1])
    edges = np.arange(0.0, total_s + width_s, width_s)
    outcome = trials["outcome"].to_numpy()
    kinds = {
        "completed": outcome == "completed",
        "failed": (outcome != "completed") & (outcome != "cancelled"),
        "cancelled by the user": outcome == "cancelled",
    }
    colours = {"completed": 2, "failed": _FAILED_GROUP, "cancelled by the user": 7}
    series = []
    for name, chosen in kinds.items():
        if name != "cancelled by the user" or chosen.any():
            counts = np.histogram(end_s[chosen], edges)[0] / width_s
            series.append(
                Series(name, colours[name], x=round_values(edges[:-1] + width_s / 2), y=[*round_values(counts)])
            )
    completed, failed = int(kinds["completed"].sum()), int(kinds["failed"].sum())
    rate = formatting.format_number(completed / total_s)
    caption = f"{completed} answers completed in {total_s:.0f} s ({rate} a second), {failed} failed."
    note = f"Counted by the end of each answer, in intervals of {width_s} s."
    return Chart(
        "load-rate", "Answers and errors over time", "line", "seconds since the test began", "answers/s", series,
        caption, note,
    )  # fmt: skip
