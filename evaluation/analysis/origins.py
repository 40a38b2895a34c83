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


@dataclass(frozen=True, slots=True)
class OriginChange:
    """A provider that was answered by others in run B than in run A."""

    provider: str
    a: tuple[OriginCount, ...]
    b: tuple[OriginCount, ...]


def count_origins(run: Run) -> dict[str, tuple[OriginCount, ...]]:
    """Return who answered each provider's trials, the most frequent first, for the providers that say so."""
    columns = run.trials[["provider", "model", "served_model", "upstream"]]
    found: dict[str, Counter[tuple[str | None, str | None]]] = {}
    for provider, model, *origin in columns.itertuples(index=False, name=None):
        served_model, upstream = map(_text, origin)
        if served_model or upstream:
            name = full_name(str(provider), _text(model))
            found.setdefault(name, Counter())[served_model, upstream] += 1
    return {
        name: tuple(OriginCount(*origin, count) for origin, count in counts.most_common())
        for name, counts in found.items()
    }


def find_origin_changes(a: Run, b: Run) -> list[OriginChange]:
    """Return the providers of both runs that were not answered by the same models and upstreams."""
    in_a, in_b = count_origins(a), count_origins(b)
    return [
        OriginChange(name, in_a[name], in_b[name])
        for name in in_a
        if name in in_b and _who(in_a[name]) != _who(in_b[name])
    ]


def _who(origins: tuple[OriginCount, ...]) -> set[tuple[str | None, str | None]]:
    return {(origin.model, origin.upstream) for origin in origins}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
