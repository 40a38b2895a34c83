"""Statistics over finished runs: summaries, comparisons, objectives."""
