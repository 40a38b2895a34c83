"""Prometheus metrics and one log record per answer: latency, tokens, cost and outcome, never prompts or text."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from server.batched_histogram import BatchedHistogram, CollectedMetrics, ObservationBatch
from server.logging_config import Throttle
from streaming.clock import Clock, monotonic
from streaming.events import Event, Notice, TextDelta, ThinkingDelta
from streaming.pipeline import Receipt

_TTFT_BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60)
_GAP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
_log = logging.getLogger("streamgauge.answers")


class Metrics:
    """The service's metrics. `folder` is where several workers combine theirs; None for a single process.

    The label `provider` is the part of a provider's name before the colon. The model's name after it is free text, and
    would make the number of label values unbounded.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._log_throttle = Throttle()
        if folder is not None:
            _drop_dead_workers(Path(folder))
        r = self._registry = CollectorRegistry()
        name = "streamgauge_"
        self.answers = Counter(f"{name}answers", "Answers that have ended", ["wire", "provider", "outcome"], registry=r)
        self.unpriced = Counter(f"{name}answers_unpriced", "Answers of unknown cost", ["provider"], registry=r)
        self.open = Gauge(f"{name}streams_open", "Answers under way", ["wire"], registry=r, multiprocess_mode="livesum")
        self.ttft = Histogram(
            f"{name}ttft_seconds",
            "Time from the request to the first delta",
            ["provider"],
            registry=r,
            buckets=_TTFT_BUCKETS_S,
        )
        self.gaps = BatchedHistogram(f"{name}chunk_gap_seconds", "Inter-chunk latency at the reader", _GAP_BUCKETS_S, r)
        self.tokens = Counter(f"{name}tokens", "Tokens", ["provider", "kind", "source"], registry=r)
        self.cost = Counter(f"{name}cost_usd", "Cost in USD, where the price is known", ["provider"], registry=r)
        self.notices = Counter(
            f"{name}notices", "Retries, fallbacks and other notices", ["provider", "kind"], registry=r
        )
        self.rejections = Counter(f"{name}refusals", "Requests rejected before any provider call", ["rule"], registry=r)
        self.stop = Histogram(
            f"{name}stop_seconds",
            "Time from a stop to the end of the provider's work",
            registry=r,
            buckets=_GAP_BUCKETS_S,
        )

    def record_rejection(self, rule: str) -> None:
        """Count a request that was rejected by that rule, and log it.

        During a flood of rejected requests, log records say only how many were left out.
        """
        self.rejections.labels(rule).inc()
        if self._log_throttle.allow(monotonic()):
            left_out = self._log_throttle.take_left_out()
            _log.info("rejection", extra={"fields": {"rule": rule, **({"left_out": left_out} if left_out else {})}})

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus's text format."""
        source: Collector = self._registry
        if self._folder is not None:
            source = MultiProcessCollector(None, path=self._folder)  # type: ignore[no-untyped-call]  # untyped
        return generate_latest(CollectedMetrics(source, self.gaps))


def _drop_dead_workers(folder: Path) -> None:
    """Remove the gauges of workers that were killed: their answers are no longer under way."""
    for file in folder.glob("gauge_live*.db"):
        match = re.search(r"_(\d+)\.db$", file.name)
        if match and not _is_alive(int(match[1])):
            mark_process_dead(int(match[1]), str(folder))  # type: ignore[no-untyped-call]  # untyped


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class AnswerMetrics:
    """The recorder of one answer's metrics: it receives the delivered events, and at the end the receipt."""

    def __init__(self, metrics: Metrics, clock: Clock, *, wire: str, about: Mapping[str, str | None]) -> None:
        provider = (about.get("provider") or "").partition(":")[0]
        self._metrics = metrics
        self._wire = wire
        self._about = about
        self._clock = clock
        self._provider = provider
        self._started_s = clock()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._chunks = 0
        self._gaps = ObservationBatch(metrics.gaps, provider)
        metrics.open.labels(wire).inc()

    def on_events(self, events: list[Event], now: float) -> None:
        """Record events that are delivered to the reader at the timestamp `now`.

        The inter-chunk latency is measured between two consecutive calls that contain text.
        """
        text = False
        for event in events:
            if self._first_s is None and isinstance(event, (TextDelta, ThinkingDelta)):
                self._first_s = now
            if isinstance(event, TextDelta):
                text = True
                self._chunks += 1
            elif isinstance(event, Notice) and event.kind != "connected":
                self._metrics.notices.labels(self._provider, event.kind).inc()
        if text:
            if self._last_s is not None:
                self._gaps.observe(now - self._last_s)
            self._last_s = now

    def on_end(self, receipt: Receipt) -> None:
        """Record the metrics of the ended answer, and write its log record."""
        self._gaps.flush()
        metrics, provider = self._metrics, receipt.served_by.partition(":")[0]
        ttft_s = None if self._first_s is None else self._first_s - self._started_s
        elapsed_s = self._clock() - self._started_s
        usage, cost = receipt.reading.usage, receipt.reading.cost
        metrics.open.labels(self._wire).dec()
        metrics.answers.labels(self._wire, provider, receipt.outcome).inc()
        if ttft_s is not None:
            metrics.ttft.labels(provider).observe(ttft_s)
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            metrics.tokens.labels(provider, kind, usage.source).inc(count or 0)
        if cost is None:
            metrics.unpriced.labels(provider).inc()
        else:
            metrics.cost.labels(provider).inc(float(cost.total_usd))
        if receipt.stop_s is not None:
            metrics.stop.observe(receipt.stop_s)
        _log.info(
            "answer",
            extra={
                "fields": {**self._about, "wire": self._wire, **_log_fields(receipt, ttft_s, elapsed_s, self._chunks)}
            },
        )


def _log_fields(receipt: Receipt, ttft_s: float | None, elapsed_s: float, chunks: int) -> dict[str, object]:
    usage, cost = receipt.reading.usage, receipt.reading.cost
    return {
        "outcome": receipt.outcome,
        "finish_reason": receipt.finish_reason,
        "error": receipt.error.kind if receipt.error else None,
        "served_by": receipt.served_by,
        "attempts": receipt.attempts,
        "ttft_s": None if ttft_s is None else round(ttft_s, 6),
        "elapsed_s": round(elapsed_s, 6),
        "chunks": chunks,
        "delivered_chars": receipt.delivered_chars,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "token_source": usage.source,
        "cost_usd": None if cost is None else float(cost.total_usd),
        "stop_s": None if receipt.stop_s is None else round(receipt.stop_s, 6),
    }
