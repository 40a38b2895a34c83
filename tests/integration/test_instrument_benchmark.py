"""The instrument judged by a server that shares no code with it, as the benchmark judges it."""

from benchmarks import instrument
from evaluation.calibration import compared

NEAR_MS = 50.0
"""An error is some 0.02 ms; machines on which tests run are not quiet."""


def test_an_independent_server_confirms_the_whole_commands_figures() -> None:
    used, noted, log, facts = instrument._command(4, "independent")
    row = compared("plain", 4, noted, log, used.cpu_s)
    assert (row.answers, row.failed) == (4, 0) and row.ttft_p50_ms is not None and row.gap_p50_ms is not None
    assert row.ttft_p50_ms < NEAR_MS and row.gap_p50_ms < NEAR_MS
    assert sum(len(one.tokens_s) for one in noted) == 4 * instrument.TOKENS
    assert row.cpu_s_per_1000_chunks and facts["loads"][0]["peak_memory_bytes"] > 10_000_000
    first_s = min(line["at_s"] for line in log if line["event"] == "received")
    assert used.began_s < first_s
