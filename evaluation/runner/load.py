"""The load of a run: the start times of an open loop (pure, seeded), and whether the requested load was reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.arrivals import draw_offsets_s
from evaluation.scenario import PlannedTrial, Scenario
from streaming.clock import Clock, cpu_s
from streaming.os_limits import peak_memory_bytes

REACHED_SHARE = 0.95
"""The share of the requested rate or concurrency below which a run reports a shortfall."""
MIN_SHORTFALL_S = 0.05
"""How much longer than scheduled the starts of an open loop take at least, if its rate was not reached: the rate of a
burst within milliseconds means nothing."""


def arrival_offsets_s(scenario: Scenario, count: int) -> list[float]:
    """Return the start times of an open loop's `count` requests, in seconds after the first; equal for equal seeds."""
    assert scenario.rate is not None
    return draw_offsets_s(scenario.arrivals, scenario.rate, scenario.burstiness, scenario.seed, count)


def trace_offsets_s(planned: Sequence[PlannedTrial]) -> list[float]:
    """Return the start times of a trace's requests, in seconds after the first of them that is left."""
    starts_s = [trial.prompt.start_s or 0.0 for trial in planned]
    return [start_s - starts_s[0] for start_s in starts_s]


@dataclass(slots=True)
class _ConcurrencyMeter:
    """Measures how many answers run at a time; all timestamps in seconds."""

    most: int = 0
    _running: int = 0
    _last_s: float = 0.0
    _area: float = 0.0
    _areas: list[float] = field(default_factory=list)
    _starts_s: list[float] = field(default_factory=list)

    def on_start(self, now_s: float) -> None:
        self._advance(now_s)
        self._starts_s.append(now_s)
        self._areas.append(self._area)
        self._running += 1
        self.most = max(self.most, self._running)

    def on_end(self, now_s: float) -> None:
        self._advance(now_s)
        self._running -= 1

    def _advance(self, now_s: float) -> None:
        self._area += self._running * (now_s - self._last_s)
        self._last_s = now_s

    def mean(self, filled: int) -> float | None:
        """Return the mean concurrency from start number `filled` to the last start; None if no start follows it."""
        starts_s, areas = self._starts_s[filled - 1 :], self._areas[filled - 1 :]
        span_s = starts_s[-1] - starts_s[0] if starts_s else 0.0
        return round((areas[-1] - areas[0]) / span_s, 3) if span_s > 0 else None


@dataclass(slots=True)
class LoadMonitor:
    """Measures rate, concurrency and CPU time of a load from the start and end of each answer; `clock` in seconds."""

    clock: Clock
    cpu: Clock = cpu_s
    _cpu_from_s: float | None = None
    _chunks: int = 0
    _all: _ConcurrencyMeter = field(default_factory=_ConcurrencyMeter)
    _by_provider: dict[str, _ConcurrencyMeter] = field(default_factory=dict)
    _starts_s: list[float] = field(default_factory=list)
    _intended_s: list[float] = field(default_factory=list)

    def on_start(self, intended_s: float, provider: str) -> None:
        now_s = self.clock()
        if self._cpu_from_s is None:
            self._cpu_from_s = self.cpu()
        self._starts_s.append(now_s)
        self._intended_s.append(intended_s)
        self._all.on_start(now_s)
        self._by_provider.setdefault(provider, _ConcurrencyMeter()).on_start(now_s)

    def on_end(self, provider: str) -> None:
        now_s = self.clock()
        self._all.on_end(now_s)
        self._by_provider[provider].on_end(now_s)

    def count_chunks(self, chunks: int) -> None:
        """Add the chunks of an answer whose rows have been written, for the CPU time per chunk."""
        self._chunks += chunks

    def summary(self, scenario: Scenario) -> dict[str, Any]:
        """Return the requested load, the measured load, and a `shortfall` in words, None if the load was reached.

        Mean concurrency is measured between the first start and the last; in a closed loop, from the start that
        reached the requested concurrency. The end of the run, when no further requests start, is left out.
        """
        filled = 1 if scenario.rate is not None else scenario.streams
        metrics: dict[str, Any] = {
            "concurrency_max": self._all.most,
            "concurrency_mean": self._all.mean(filled),
            "starts_per_s": _starts_per_s(self._starts_s),
            **self._resource_usage(),
        }
        if scenario.rate is None:
            metrics |= {"asked_concurrency": scenario.concurrency}
            return metrics | {"shortfall": self._concurrency_shortfall(scenario)}
        metrics |= {"asked_rate_per_s": scenario.rate, "arrivals": scenario.arrivals}
        metrics |= {"drawn_rate_per_s": _starts_per_s(self._intended_s), "latest_start_s": self._max_start_delay_s()}
        return metrics | {"shortfall": _rate_shortfall(metrics, len(self._starts_s))}

    def _concurrency_shortfall(self, scenario: Scenario) -> str | None:
        """Return the shortfall of the first provider that has one; with a concurrency of 1 they take turns."""
        if any(scenario.think_time_s(turn) for prompt in scenario.prompts for turn in prompt.turns):
            return None  # nothing is under way while a reader thinks
        requests = scenario.concurrency
        meters = {"": self._all} if requests == 1 else self._by_provider
        load = (
            (name, _concurrency_shortfall(meter.most, meter.mean(requests), requests)) for name, meter in meters.items()
        )
        name, words = next((pair for pair in load if pair[1] is not None), ("", None))
        return f"{name}: {words}" if words is not None and len(meters) > 1 else words

    def _resource_usage(self) -> dict[str, Any]:
        """Return the CPU time of this process, in seconds since the first start, and its peak memory in bytes."""
        used_s = None if self._cpu_from_s is None else self.cpu() - self._cpu_from_s
        return {
            "cpu_s": None if used_s is None else round(used_s, 4),
            "cpu_s_per_1000_chunks": round(used_s / self._chunks * 1000, 4) if used_s and self._chunks else None,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _max_start_delay_s(self) -> float | None:
        late_s = [start - due for start, due in zip(self._starts_s, self._intended_s, strict=True)]
        return round(max(late_s), 6) if late_s else None


def _starts_per_s(at_s: Sequence[float]) -> float | None:
    """Return starts per second, intervals / (last - first); None for fewer than two starts."""
    span_s = at_s[-1] - at_s[0] if at_s else 0.0
    return round((len(at_s) - 1) / span_s, 3) if span_s > 0 else None


def _concurrency_shortfall(most: int, mean: float | None, requested: int) -> str | None:
    if most < requested:
        return f"concurrency {requested} requested, at most {most} reached"
    if mean is not None and mean < REACHED_SHARE * requested:
        return f"concurrency {requested} requested, {mean:.1f} reached on average"
    return None


def _rate_shortfall(load: dict[str, Any], starts: int) -> str | None:
    drawn, reached = load["drawn_rate_per_s"], load["starts_per_s"]
    if starts < 2:
        return f"{load['asked_rate_per_s']:g} requests/s requested, fewer than two were started"
    if drawn is None or reached is None:
        return None  # all at once
    longer_s = (starts - 1) * (1 / reached - 1 / drawn)
    if reached < REACHED_SHARE * drawn and longer_s > MIN_SHORTFALL_S:
        return f"{load['asked_rate_per_s']:g} requests/s requested ({drawn:g}/s scheduled), {reached:g}/s started"
    return None
