"""The instrument's metrics against the log of an independent server, as in the benchmark."""

from benchmarks import instrument
from evaluation.calibration.model import compare_with_log
from tests.arrival_times import assert_arrived_after_sends


def test_run_command_metrics_agree_with_independent_server() -> None:
    used, record, log, facts = instrument.run_command(4, "independent")
    row = compare_with_log("plain", 4, record, log, used.cpu_s)
    assert (row.answers, row.failed) == (4, 0) and row.ttft_p50_ms is not None and row.gap_p50_ms is not None
    for answer in record:
        sent_s = [line["at_s"] for line in log if line["request_id"] == answer.request_id and "seq" in line]
        assert_arrived_after_sends(answer.tokens_s, sent_s)
    assert sum(len(one.tokens_s) for one in record) == 4 * instrument.TOKENS
    assert row.cpu_s_per_1000_chunks and facts["loads"][0]["peak_memory_bytes"] > 10_000_000
    first_s = min(line["at_s"] for line in log if line["event"] == "received")
    assert used.began_s < first_s
