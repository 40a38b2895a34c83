"""Prometheus's text format, and the names under which inference servers report the same things. Pure.

A server is known by its names: vLLM, llama.cpp, SGLang, and this project's service. What is known is mapped to the
columns of `KNOWN_NAMES`; all series are kept under their own names too, except the buckets of histograms.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


MAX_SERIES = 500
"""Series that are kept of one response. Servers have 50 to 300 without the buckets of their histograms."""
MAX_SERIES_NAME_CHARS = 300

SERVERS = {"vllm:": "vLLM", "llamacpp:": "llama.cpp", "sglang:": "SGLang", "streamgauge_": "Streamgauge"}
"""The servers by the beginning of their names."""


@dataclass(frozen=True, slots=True)
class KnownMetric:
    """One quantity under the names that the servers have for it.

    `labels` select series; the values of several (of models, replicas or transports) are added, or the largest is
    taken.
    """

    names: tuple[str, ...]
    labels: Mapping[str, str] | None = None
    is_largest: bool = False


def _histogram(column: str, *names: str) -> dict[str, KnownMetric]:
    parts = {f"{column}_sum": "_sum", f"{column}_count": "_count"}
    return {key: KnownMetric(tuple(name + end for name in names)) for key, end in parts.items()}


KNOWN_NAMES: dict[str, KnownMetric] = {
    "running": KnownMetric(
        ("vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs",
         "streamgauge_streams_open")
    ),
    "waiting": KnownMetric(("vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs")),
    "cache_use": KnownMetric(
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio",
         "sglang:token_usage"),
        is_largest=True,
    ),
    "input_tokens": KnownMetric(
        ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total", "sglang:prompt_tokens_total")
    ),
    "output_tokens": KnownMetric(
        ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total", "sglang:generation_tokens_total")
    ),
    "preemptions": KnownMetric(("vllm:num_preemptions_total",)),
    **_histogram("queue_s", "vllm:request_queue_time_seconds", "sglang:queue_time_seconds"),
    **_histogram("prefill_s", "vllm:request_prefill_time_seconds"),
    **_histogram("ttft_s", "vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds",
                 "streamgauge_ttft_seconds"),
}  # fmt: skip
"""The columns of the table and the metrics they come from. `cache_use` is a share, `…_s_sum` are seconds, and tokens,
preemptions, sums and counts are totals since the server's start."""
_SERVICE_TOKENS = {
    column: KnownMetric(("streamgauge_tokens_total",), {"kind": column.partition("_")[0]})
    for column in ("input_tokens", "output_tokens")
}
"""This project's service has one metric for both, with a label."""
_RANKS = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Labels of the parts of one replica, which serve the same requests together."""
_LABEL = re.compile(r'(\w+)="(.*?)"(?=,\w+="|}$)')
_NAMES = frozenset(name for known in (*KNOWN_NAMES.values(), *_SERVICE_TOKENS.values()) for name in known.names)


def parse_exposition(text: str) -> dict[str, float]:
    """Return the value of each series by its name with labels, at most `MAX_SERIES`.

    Known series come first, then those of the response in order. Raises ValueError when the text is not in the format.
    """
    # Imported here: every report knows the names above, but only a run with `--scrape` parses the format.
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    kept = [sample for sample in samples if _is_kept(sample)]
    ordered = sorted(kept, key=lambda sample: sample.name not in _NAMES)  # sorted() keeps the order of equals
    return {series_name(one): float(one.value) for one in islice(ordered, MAX_SERIES)}


def _is_kept(sample: "Sample") -> bool:
    if "le" in sample.labels or "quantile" in sample.labels or not math.isfinite(sample.value):
        return False
    return (
        len(sample.name) + sum(len(key) + len(value) for key, value in sample.labels.items()) <= MAX_SERIES_NAME_CHARS
    )


def series_name(sample: "Sample") -> str:
    """Return the name of a series with its labels, as Prometheus writes it."""
    if not sample.labels:
        return sample.name
    labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}"


def find_server(names: Iterable[str]) -> str | None:
    """Return the server that reports series of these names; None if it is not known."""
    return next((server for name in names for start, server in SERVERS.items() if name.startswith(start)), None)


def find_known_series(names: Sequence[str]) -> dict[str, tuple[list[str], bool]]:
    """Return the series of each known column, and whether the largest is taken instead of their sum.

    Of two metrics of a server for the same thing, as of an old and a new version, the first is taken.
    """
    result = {}
    for column, known in [*KNOWN_NAMES.items(), *_SERVICE_TOKENS.items()]:
        for metric in known.names:
            found = [name for name in names if _matches(name, metric, known.labels or {})]
            if found and column not in result:
                result[column] = _leave_out_repeated(found), known.is_largest
    return result


def _leave_out_repeated(series: Sequence[str]) -> list[str]:
    """Return the series of one metric without those that count the same again.

    SGLang reports each rank of a replica, and beside a total, with an empty `priority`, its parts by priority.
    """
    labels = {name: dict(_LABEL.findall(name)) for name in series}
    has_total = any(own.get("priority") == "" for own in labels.values())
    by_replica: dict[frozenset[tuple[str, str]], str] = {}
    for name, own in labels.items():
        if not has_total or not own.get("priority"):
            by_replica.setdefault(frozenset(pair for pair in own.items() if pair[0] not in _RANKS), name)
    return list(by_replica.values())


def _matches(series: str, metric: str, labels: Mapping[str, str]) -> bool:
    name, _, rest = series.partition("{")
    return name == metric and all(f'{key}="{value}"' in rest for key, value in labels.items())
