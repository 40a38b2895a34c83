"""What a run's trials are called and how they are divided: provider names, transports, fresh and repeated prompts."""

from itertools import product
from typing import Literal

import pandas as pd

from evaluation.scenario import at_effort, at_load, full_name, transport_name
from evaluation.tables import Run
from evaluation.transports import IN_PROCESS

Population = Literal["all", "fresh", "repeated"]
"""`all` where a run did not mix fresh and repeated prompts, so that its trials can be pooled."""


def add_name_column(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with a column `name`: the provider's full name, as written in the command.

    If the effort differs between trials, it is part of the name. A run that recorded its names keeps them.
    """
    if "name" in trials and trials["name"].notna().all():
        return trials
    pairs = zip(trials["provider"], trials["model"].fillna(""), strict=True)
    result = [full_name(*pair) for pair in pairs]
    efforts = [None if pd.isna(effort) else str(effort) for effort in trials["effort"]]
    if len(set(efforts)) > 1:
        result = [at_effort(*pair) for pair in zip(result, efforts, strict=True)]
    return trials.assign(name=pd.Series(result, trials.index, dtype="string"))


def names_in_order(run: Run, column: "pd.Series[str]") -> list[str]:
    """Return the names of the providers in the order of the scenario: by provider, then by effort."""
    facts = run.manifest.get("scenario", {})
    efforts = [None, *facts.get("effort", [])]
    planned = [at_effort(*pair) for pair in product(facts.get("providers", []), efforts)]
    seen = list(dict.fromkeys(column))
    return [name for name in planned if name in seen] + sorted(name for name in seen if name not in planned)


def order_values(run: Run, key: str, column: "pd.Series[str]") -> list[str]:
    """Return the distinct values of a column: first those in the scenario, in its order, then the others, sorted."""
    seen = list(dict.fromkeys(column))
    planned = run.manifest.get("scenario", {}).get(key, [])
    return [name for name in planned if name in seen] + sorted(name for name in seen if name not in planned)


def transports(run: Run) -> list[str]:
    """Return the transports that have a trial; the first is the baseline of comparisons."""
    result = order_values(run, "transport", run.trials["transport"])
    return sorted(result, key=lambda name: name != IN_PROCESS)


def add_transport_names(run: Run, trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the trials with a column `name`, and the names in order.

    If there are several transports, the transport is part of the name, and the load is where there are several levels.
    """
    trials, all_transports = add_name_column(trials), transports(run)
    names = names_in_order(run, trials["name"])
    if run.is_sweep:
        trials, names = _add_levels(run, trials, names)
    if len(all_transports) < 2:
        return trials, names
    pairs = [transport_name(*pair) for pair in zip(trials["name"], trials["transport"], strict=True)]
    apart = trials.assign(name=pd.Series(pairs, trials.index, dtype="string"))
    in_order = (transport_name(*pair) for pair in product(names, all_transports))
    return apart, [name for name in in_order if name in set(pairs)]


def _add_levels(run: Run, trials: pd.DataFrame, names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the trials of a sweep with the load in their names, and the names by provider and then by load."""
    is_open = run.manifest["scenario"].get("rate") is not None
    levels = sorted(level for level in trials["level"].dropna().unique())
    pairs = zip(trials["name"], trials["level"], strict=True)
    apart = [name if pd.isna(level) else at_load(str(name), float(level), is_open=is_open) for name, level in pairs]
    in_order = [*(at_load(*pair, is_open=is_open) for pair in product(names, levels)), *names]
    seen = set(apart)
    return trials.assign(name=pd.Series(apart, trials.index, dtype="string")), [n for n in in_order if n in seen]


def add_population_column(run: Run, trials: pd.DataFrame, *, always: bool = False) -> pd.DataFrame:
    """Return named trials with a column `population`: `fresh` and `repeated` where a run mixes them, else `all`.

    `always`: also where it does not mix them, to compare it with a run that does.

    A provider may answer a prompt that it was asked before from a cache, so no median pools the two. Runs that did not
    record `fresh` are divided by the order of their trials: the first to a provider is fresh. Load tests and recordings
    are not divided, as their prompts are a mix on purpose.
    """
    if run.manifest.get("kind") is not None or not len(trials):
        return trials.assign(population="all")
    known = trials["fresh"] if "fresh" in trials else pd.Series(pd.NA, trials.index, dtype="boolean")
    fresh = (known.fillna(_first_asked(trials)) if known.isna().any() else known).astype("bool")
    if fresh.nunique() < 2 and not always:
        return trials.assign(population="all")
    return trials.assign(population=fresh.map({True: "fresh", False: "repeated"}))


def _first_asked(trials: pd.DataFrame) -> "pd.Series[bool]":
    prompt = ["provider", "model", "prompt_id"]
    order = trials[["block", "trial_id", *prompt]].sort_values(["block", "trial_id"], kind="stable")
    return ~order.duplicated(prompt).reindex(trials.index)


def populations(trials: pd.DataFrame) -> list[Population]:
    """Return the populations of the trials, fresh prompts first."""
    result = set(trials["population"])
    known: tuple[Population, ...] = ("all", "fresh", "repeated")
    return [name for name in known if name in result]
