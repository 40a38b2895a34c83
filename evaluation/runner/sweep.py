"""The search of a sweep: the level that each provider is tried at next, from what it delivered so far."""

from collections.abc import Container
from pathlib import Path

from evaluation.levels import next_level
from evaluation.scenario import Scenario


def find_next_levels(folder: Path, scenario: Scenario, ended: Container[str] = ()) -> dict[str, int]:
    """Return the concurrency to try next by provider; those whose knee is found, or whose part has ended, are left out.

    The goodput of the levels, or their throughput without objectives, is read from the run's journal, so that a
    resumed search goes on where it was.
    """
    # Imported here because pandas takes a second, which only a search needs.
    from evaluation import tables
    from evaluation.analysis.throughput import load_levels

    levels = load_levels(tables.from_journal(folder))
    result = {}
    for provider in scenario.providers:
        own = [level for level in levels if level.name in (provider, provider.partition(":")[0])]
        rates = {level.level: level.delivered_per_s for level in own if level.level is not None}
        found = next_level(rates, scenario.sweep_to or 1)
        if found is not None and provider not in ended:
            result[provider] = found
    return result
