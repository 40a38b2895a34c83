"""Who answered a run's trials: the served model and the upstream provider, and how two runs differ in them."""

from collections import Counter
from dataclasses import dataclass

from evaluation.scenario import full_name
from evaluation.tables import Run

UNNAMED = "an unnamed model"


@dataclass(frozen=True, slots=True)
class OriginCount:
    """A model and, behind a gateway, an upstream that answered `count` trials of one provider; None is unknown."""

    model: str | None
    upstream: str | None
    count: int

    def __str__(self) -> str:
        return f"{self.model or UNNAMED}{f' at {self.upstream}' if self.upstream else ''}"


def count_origins(run: Run) -> dict[str, tuple[OriginCount, ...]]:
    """Return who answered each provider's trials, the most frequent first, for the providers that say so."""
    columns = run.trials[["provider", "model", "model_served", "provider_served"]]
    found: dict[str, Counter[tuple[str | None, str | None]]] = {}
    for provider, model, *origin in columns.itertuples(index=False, name=None):
        model_served, upstream = map(_text, origin)
        if model_served or upstream:
            name = full_name(str(provider), _text(model))
            found.setdefault(name, Counter())[model_served, upstream] += 1
    return {
        name: tuple(OriginCount(*origin, count) for origin, count in counts.most_common())
        for name, counts in found.items()
    }


def describe_origin_changes(a: Run, b: Run) -> list[str]:
    """Return a clause for each provider of both runs that was not answered by the same models and upstreams."""
    in_a, in_b = count_origins(a), count_origins(b)
    return [
        f"served model of {name}: {_join(in_a[name])} in A, {_join(in_b[name])} in B"
        for name in in_a
        if name in in_b and _who(in_a[name]) != _who(in_b[name])
    ]


def _join(origins: tuple[OriginCount, ...]) -> str:
    return " and ".join(sorted(map(str, origins)))


def _who(origins: tuple[OriginCount, ...]) -> set[tuple[str | None, str | None]]:
    return {(origin.model, origin.upstream) for origin in origins}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
