"""The server's own metrics beside this run's: its queue at each reading, and where the time to first token went.

A server counts the requests of all its callers; of a run on a server of its own the two sides must agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from evaluation.analysis.statistics import Floats
from evaluation.analysis.throughput import add_times
from evaluation.tables import Run

_SERVER_PARTS = ("server_queue_s", "server_load_s", "server_prefill_s")
_COLUMNS = (
    "name", "level", "outcome", "stamp_source", "ttft_s", "queue_s", "connect_s", "sent_monotonic_s", "end_s",
    *_SERVER_PARTS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """A server during one level of a run, or during the whole run; None is unknown.

    `own` is the mean number of this run's answers under way at the readings. `running`, `waiting` and `cache_use` are
    the mean and the largest of the readings, and rates are those of the server's counters. `level` is None if the run
    has one load.
    """

    level: float | None
    readings: int
    own: float
    running: tuple[float, float] | None
    waiting: tuple[float, float] | None
    cache_use: tuple[float, float] | None
    input_tps: float | None
    output_tps: float | None


@dataclass(frozen=True, slots=True)
class TTFTParts:
    """The mean time to first token of a provider's completed answers at one level, by where it went, in seconds.

    `queue_s` is the instrument's own wait before it sent the request. `server_queue_s` to `server_prefill_s` are the
    server's own timings: those in its answers, or if `is_scraped` the means of its metrics over the same time. With
    `is_queue_estimated` the wait at the server follows from the number of its waiting requests, by Little's law.
    `network_s` is a round trip. `unexplained_s` is what remains of `ttft_s`; None is unknown and counts as 0.
    """

    name: str
    level: float | None
    answers: int
    queue_s: float
    connect_s: float
    ttft_s: float
    server_queue_s: float | None
    server_load_s: float | None
    server_prefill_s: float | None
    network_s: float | None
    is_scraped: bool = False
    is_queue_estimated: bool = False

    @property
    def total_s(self) -> float:
        """The time from the intended start to the first token, without waits that a provider named."""
        return self.queue_s + self.connect_s + self.ttft_s

    @property
    def unexplained_s(self) -> float:
        """What remains; negative if the server's timings and the round trip are longer than the TTFT."""
        parts = (self.server_queue_s, self.server_load_s, self.server_prefill_s, self.network_s)
        return self.ttft_s - sum(part or 0.0 for part in parts)


def own_load(run: Run, at_s: Floats) -> Floats:
    """Return how many of this run's answers were under way at times on CLOCK_MONOTONIC."""
    trials = add_times(run.trials, run.events)
    known = trials[trials["sent_monotonic_s"].notna()]
    sent_s, end_s = (np.sort(known[name].to_numpy(np.float64)) for name in ("sent_monotonic_s", "end_s"))
    started, ended = (np.searchsorted(times_s, at_s, side="right") for times_s in (sent_s, end_s))
    return np.asarray(started - ended, dtype=np.float64)


def server_loads(run: Run) -> list[ServerLoad]:
    """Return the server's load at each level of the run, in order; none without readings while answers were under way.

    Providers that are asked at the same level share it: a server does not say whose its requests are.
    """
    if not len(run.server):
        return []
    return [load for level, cell in _by_level(run) if (load := _server_load(run, level, cell)) is not None]


def _by_level(run: Run) -> Iterator[tuple[float | None, pd.DataFrame]]:
    trials = add_times(run.trials, run.events)[list(_COLUMNS)]
    trials = trials[trials["sent_monotonic_s"].notna()]
    if not run.is_sweep:
        yield None, trials
        return
    for level, cell in trials.groupby("level", sort=True):
        yield float(str(level)), cell


def _server_load(run: Run, level: float | None, cell: pd.DataFrame) -> ServerLoad | None:
    if not len(cell):
        return None
    window_s = _window_s(cell)
    inside = run.server[run.server["at_s"].between(*window_s) & run.server["error"].isna()]
    if not len(inside):
        return None
    own = own_load(run, inside["at_s"].to_numpy(np.float64))
    return ServerLoad(
        level,
        len(inside),
        float(own.mean()),
        _mean_and_largest(inside["running"]),
        _mean_and_largest(inside["waiting"]),
        _mean_and_largest(inside["cache_use"]),
        _counter_rate(run.server, "input_tokens", *window_s),
        _counter_rate(run.server, "output_tokens", *window_s),
    )


def _mean_and_largest(values: "pd.Series[float]") -> tuple[float, float] | None:
    return (float(values.mean()), float(values.max())) if values.notna().any() else None


def _counter_rate(server: pd.DataFrame, column: str, from_s: float, to_s: float) -> float | None:
    change = _counter_change(server, column, from_s, to_s)
    return None if change is None else change[0] / change[1]


def _counter_change(server: pd.DataFrame, column: str, from_s: float, to_s: float) -> tuple[float, float] | None:
    """Return how much a counter grew from the last reading before a time to the first one after it, and in how long.

    Without a reading before or after it the first and last of the time are taken; None if they are unknown, or if the
    counter fell, as at a restart of the server.
    """
    known = server[server[column].notna()]
    at_s = known["at_s"].to_numpy(np.float64)
    first = max(int(np.searchsorted(at_s, from_s, side="right")) - 1, 0)
    last = min(int(np.searchsorted(at_s, to_s)), len(at_s) - 1)
    if last <= first:
        return None
    values = known[column].to_numpy(np.float64)
    change = float(values[last] - values[first])
    return (change, float(at_s[last] - at_s[first])) if change >= 0 else None


def ttft_parts(run: Run) -> list[TTFTParts]:
    """Return where the time to first token went, for each provider and level whose server says anything of it."""
    if not len(run.server) and run.trials[["server_prefill_s", "server_queue_s"]].isna().all(axis=None):
        return []
    result = []
    names = list(dict.fromkeys(run.trials["name"]))
    for level, cell in _by_level(run):
        for name in names:
            own = cell[cell["name"] == name]
            # Of several providers nobody knows whose requests the scraped server counts.
            parts = _ttft_parts(str(name), level, own, run.server if len(names) == 1 else run.server.iloc[:0])
            if parts is not None:
                result.append(parts)
    return result


def _ttft_parts(name: str, level: float | None, cell: pd.DataFrame, server: pd.DataFrame) -> TTFTParts | None:
    answered = cell[(cell["outcome"] == "completed") & cell["ttft_s"].notna()]
    timed = answered[answered["server_prefill_s"].notna() | answered["server_queue_s"].notna()]
    if len(timed):
        queue_s, load_s, prefill_s = (_mean(timed[column]) for column in _SERVER_PARTS)
        estimated_s = _estimate_queue_s(server, cell) if queue_s is None else None
        parts = _make_parts(name, level, timed, (queue_s if estimated_s is None else estimated_s, load_s, prefill_s))
        return replace(parts, is_queue_estimated=estimated_s is not None)
    if not len(answered):
        return None
    window_s = _window_s(answered)
    queue_s, prefill_s = (_mean_of_scrape(server, column, *window_s) for column in ("queue_s", "prefill_s"))
    if queue_s is None and prefill_s is None:
        return None
    return replace(_make_parts(name, level, answered, (queue_s, None, prefill_s)), is_scraped=True)


def _estimate_queue_s(server: pd.DataFrame, cell: pd.DataFrame) -> float | None:
    """Return the mean wait at the server by Little's law: the waiting requests of all the time, over the requests."""
    from_s, to_s = _window_s(cell)
    waiting = server.loc[server["at_s"].between(from_s, to_s), "waiting"].dropna()
    return float(waiting.mean()) * (to_s - from_s) / len(cell) if len(waiting) else None


def _window_s(cell: pd.DataFrame) -> tuple[float, float]:
    return float(cell["sent_monotonic_s"].min()), float(cell["end_s"].max())


def _mean_of_scrape(server: pd.DataFrame, column: str, from_s: float, to_s: float) -> float | None:
    total = _counter_change(server, f"{column}_sum", from_s, to_s)
    count = _counter_change(server, f"{column}_count", from_s, to_s)
    return total[0] / count[0] if total is not None and count is not None and count[0] else None


def _make_parts(
    name: str, level: float | None, cell: pd.DataFrame, server: tuple[float | None, float | None, float | None]
) -> TTFTParts:
    """Return the parts; `server` has the server's waiting, loading and prefill in seconds."""
    queue_s, connect_s = (float(cell[column].fillna(0.0).mean()) for column in ("queue_s", "connect_s"))
    ttft_s = float(cell["ttft_s"].mean())
    return TTFTParts(name, level, len(cell), queue_s, connect_s, ttft_s, *server, _round_trip_s(cell))


def _round_trip_s(cell: pd.DataFrame) -> float | None:
    """Return a round trip of the network: the shortest time to open a connection, of which TLS takes half.

    TCP's handshake is a round trip and that of TLS 1.3 a second one. The kernel has no timestamps of encrypted data, so
    that connections with them are plain. None where no connection was opened.
    """
    plain = cell.loc[cell["stamp_source"] == "kernel", "connect_s"].dropna()
    encrypted = cell.loc[cell["stamp_source"] == "callback", "connect_s"].dropna() / 2
    times_s = pd.concat([plain, encrypted])
    return float(times_s.min()) if len(times_s) else None


def _mean(values: "pd.Series[float]") -> float | None:
    return float(values.mean()) if values.notna().any() else None
