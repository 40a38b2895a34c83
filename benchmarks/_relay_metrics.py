"""Pure functions that compute the metrics of a run of the relay benchmark, and its limiting factor."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

from evaluation.metrics.cadence import percentile

_BUFFERED_MS = 40.0
"""The largest p99 gap at which a stream with 20 ms gaps counts as on time: twice the gap."""
_LATE_MS = 5.0
"""The p99 lateness above which the simulator did not keep to its schedule: a quarter of a gap."""
_SATURATED_SHARE = 0.9
"""The share of a core from which it counts as saturated."""


def compute_metrics(
    answers: list[dict[str, Any]], log: list[dict[str, Any]], used_s: float, others_s: float, grown_kb: int
) -> dict[str, float]:
    """Return the metrics of a run.

    `answers` has the client's timestamps, `log` those of the upstream. Raises RuntimeError when chunks were lost.
    """
    received_s = {line["request_id"]: line["at_s"] for line in log if line["event"] == "received"}
    sent_s, late_ms = defaultdict[str, list[float]](list), list[float]()
    for line in log:
        if line["event"] == "sent" and "seq" in line:
            sent_s[line["request_id"]].append(line["at_s"])
            late_ms.append((line["at_s"] - line["due_s"]) * 1000)
    ttft_ms, gap_ms, added_ms, chunks, merged = [], [], [], 0, 0
    for row in answers:
        truth, came = sent_s[row["name"]], row["came_s"]
        if len(came) != len(truth):
            raise RuntimeError(f"{row['name']}: {len(came)} of {len(truth)} chunks arrived")
        ttft_ms.append((came[0] - truth[0] + received_s[row["name"]] - row["sent_s"]) * 1000)
        gaps = [b - a for a, b in pairwise(came)]
        gap_ms += [gap * 1000 for gap in gaps]
        added_ms += [abs(gap - (b - a)) * 1000 for gap, (a, b) in zip(gaps, pairwise(truth), strict=True)]
        chunks += len(came)
        merged += row["merged"]
    last_s = max(row["came_s"][-1] for row in answers)
    seconds, whole_s = last_s - min(row["came_s"][0] for row in answers), last_s - min(row["sent_s"] for row in answers)
    return {
        "ttft_p50_ms": _percentile(ttft_ms, 50),
        "ttft_p99_ms": _percentile(ttft_ms, 99),
        "gap_p99_ms": _percentile(gap_ms, 99),
        "gap_added_p99_ms": _percentile(added_ms, 99),
        "cpu_us_per_chunk": round(used_s / chunks * 1e6, 1),
        "chunks_per_s": round(chunks / seconds),
        "chunks_per_s_a_core": round(chunks / used_s),
        "kb_per_stream": round(grown_kb / len(answers), 1),
        "late_p99_ms": _percentile(late_ms, 99),
        "merged_reads": merged,
        "busy": round(used_s / whole_s, 2),
        "others_busy": round(others_s / whole_s, 2),
    }


def limiting_factor(result: dict[str, float], gap_ms: float) -> str:
    """Return which part limited the run: the relay, the simulator and the client, or only the load.

    >>> steady = {"busy": 0.5, "others_busy": 0.4, "late_p99_ms": 0.1, "gap_p99_ms": 21.0}
    >>> limiting_factor(steady, 20), limiting_factor({**steady, "gap_p99_ms": 50.0}, 20)
    ('held: p99 gap within 40 ms', 'not held: p99 gap above 40 ms')
    >>> limiting_factor({**steady, "others_busy": 0.97}, 20)
    'the simulator and the client saturated first: the relay can do more than this'
    >>> limiting_factor({**steady, "busy": 0.98}, 0)
    "the relay's core was full"
    """
    late = bool(gap_ms) and result["late_p99_ms"] > _LATE_MS
    if late or (result["others_busy"] >= _SATURATED_SHARE and result["busy"] < result["others_busy"]):
        return "the simulator and the client saturated first: the relay can do more than this"
    if not gap_ms:
        return "the relay's core was full" if result["busy"] >= _SATURATED_SHARE else "neither core was full with this"
    held = result["gap_p99_ms"] <= _BUFFERED_MS
    return f"held: p99 gap within {_BUFFERED_MS:g} ms" if held else f"not held: p99 gap above {_BUFFERED_MS:g} ms"


def _percentile(values: list[float], percent: int) -> float:
    return round(percentile(sorted(values), percent), 3)
