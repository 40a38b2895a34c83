"""`evaluation.load`: a run as DataFrames for notebooks, with dates, categories and units."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from evaluation import tables
from evaluation.schema import EVENT_COLUMN_DOCS, TRIAL_UNITS
from evaluation.tables import Run

CATEGORIES = (
    "run_id", "prompt_id", "name", "provider", "model", "strategy", "transport", "outcome", "finish_reason",
    "error_type", "token_source", "cost_source", "price_source", "stamp_source", "peer_address", "effort",
    "fell_back_to",
)  # fmt: skip
_OF_TRIAL = ("name", "provider", "strategy")
"""Columns of the trial that its events have too."""


def load(folder: str | Path) -> Run:
    """Return the run in a folder, whether it is finished, running or interrupted.

    `trials` has one row per trial, with `started_at` as a timestamp in UTC and names as categories. `events` has one
    row per event, with the `name`, `provider` and `strategy` of its trial. `attrs["units"]` of both is the unit of each
    column, as in `docs/metrics.md`. Raises UsageError when the folder has no run, or the run is damaged.
    """
    run = tables.load(folder)
    trials = run.trials.astype(dict.fromkeys(CATEGORIES, "category"))
    started_at = pd.to_datetime(trials["started_at"], utc=True, format="ISO8601", errors="coerce")
    trials["started_at"] = started_at.astype("datetime64[us, UTC]")
    own = trials.set_index("trial_id")[list(_OF_TRIAL)].reindex(run.events["trial_id"].cat.categories)
    codes = run.events["trial_id"].cat.codes.to_numpy()
    events = run.events.assign(**{name: own[name].array.take(codes) for name in _OF_TRIAL})
    trials.attrs["units"] = TRIAL_UNITS
    events.attrs["units"] = {name: column.unit for name, column in EVENT_COLUMN_DOCS.items() if column.unit}
    return replace(run, trials=trials, events=events)
