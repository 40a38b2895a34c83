"""The server's side of a run whose truth is known: its queue, and where the time to first token went."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation import tables
from evaluation.analysis.server_side import server_loads, ttft_parts
from evaluation.reports.charts import build_charts
from evaluation.reports.markdown import markdown
from evaluation.scenario import plan
from evaluation.server_metrics.readings import SERVER_FILE, Reading
from evaluation.tables import Run
from tests.unit.evaluation import factories

PROVIDER = "openai:m"
TTFT_S, E2E_S, CONNECT_S = 0.5, 2.0, 0.02


def make_run(folder: Path, readings: list[Reading], providers: tuple[str, ...] = (PROVIDER,), **columns: Any) -> Run:
    """Return a run in which an answer starts each second, from 100 s on, and takes two."""
    scenario = factories.make_scenario(providers, concurrency=2)
    rows = []
    for planned in plan(scenario):
        start_s = 99.0 + planned.number
        fields = {
            "sent_monotonic_s": start_s + CONNECT_S, "intended_start_s": start_s, "queue_s": 0.0, "level": 2.0,
            "connect_s": CONNECT_S, "ttft_s": TTFT_S, "e2e_s": E2E_S, "stamp_source": "kernel",
        }  # fmt: skip
        rows.append((factories.make_trial(planned, **(fields | columns)), factories.make_gap_events(planned, 1.8)))
    factories.write_run(folder, scenario, rows, scrape={"url": "http://host/metrics", "server": None, "problem": None})
    (folder / SERVER_FILE).write_text("".join(reading.to_json_line() for reading in readings))
    return tables.from_journal(folder)


def readings_of(**series: float) -> Iterator[Reading]:
    """Yield a reading each second from before the run until after it; series with a value grow by it each second."""
    for number in range(13):
        totals = {name.replace("__", ":"): growth * number for name, growth in series.items()}
        gauges = {"vllm:num_requests_running": 1.5, "vllm:num_requests_waiting": 0.5, "vllm:kv_cache_usage_perc": 0.25}
        yield Reading(98.5 + number, "2026-01-01T00:00:00+00:00", 0.01, gauges | totals)


def test_servers_queue_stands_beside_the_answers_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, list(readings_of(vllm__prompt_tokens_total=40)))
    (load,) = server_loads(run)
    assert (load.running, load.waiting, load.cache_use) == ((1.5, 1.5), (0.5, 0.5), (0.25, 0.25))
    assert load.readings == 9 and load.own == pytest.approx(16 / 9)  # one answer in the first and last second, else two
    assert load.input_tps == pytest.approx(40) and load.output_tps is None
    text = markdown(run)
    assert "| 2 at a time | 9 | 1.78 | 1.50 | 1.50 | 0.50 | 0.50 | 25.0 % | 25.0 % | 40.0 |" in text
    assert {"server-queue", "server-cache"} <= {chart.id for chart in build_charts(run)}


def test_ttft_is_divided_by_the_servers_own_timings_in_its_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path, [], server_queue_s=0.1, server_prefill_s=0.3)
    (parts,) = ttft_parts(run)
    assert parts.total_s == pytest.approx(0.52) and parts.network_s == pytest.approx(0.02)
    assert parts.unexplained_s == pytest.approx(0.5 - 0.1 - 0.3 - 0.02) and not parts.is_scraped
    assert "| openai:m | 2 at a time | 8 | 520 | 0.00 | 20.0 | 500 | 100 | 300 | 20.0 | 80.0 |" in markdown(run)


def test_ttft_is_divided_by_scraped_histograms_where_answers_say_nothing(tmp_path: Path) -> None:
    names = {"vllm__request_queue_time_seconds_sum": 0.2, "vllm__request_queue_time_seconds_count": 1.0}
    names |= {"vllm__request_prefill_time_seconds_sum": 0.25, "vllm__request_prefill_time_seconds_count": 1.0}
    (parts,) = ttft_parts(make_run(tmp_path, list(readings_of(**names)), stamp_source="callback"))
    assert parts.server_queue_s == pytest.approx(0.2) and parts.server_prefill_s == pytest.approx(0.25)
    assert parts.is_scraped and parts.network_s == pytest.approx(CONNECT_S / 2)  # encrypted: two round trips


def test_wait_that_the_answers_do_not_report_follows_from_the_waiting_requests(tmp_path: Path) -> None:
    run = make_run(tmp_path, list(readings_of()), server_prefill_s=0.1)
    (parts,) = ttft_parts(run)
    assert parts.is_queue_estimated and parts.server_queue_s == pytest.approx(0.5 * 9 / 8)  # 9 s, 8 requests
    assert "Little's law" in markdown(run)


def test_metrics_of_a_server_are_no_ones_where_several_providers_were_asked(tmp_path: Path) -> None:
    names = {"vllm__request_queue_time_seconds_sum": 0.2, "vllm__request_queue_time_seconds_count": 1.0}
    assert ttft_parts(make_run(tmp_path, list(readings_of(**names)), (PROVIDER, "openai:n"))) == []


def test_server_that_never_answered_is_said_in_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Reading(100.5, "", 0.01, {}, "status 404 <b>")])
    text = markdown(run)
    assert "could not be read: status 404 \\<b>.**" in text and server_loads(run) == []


def test_counter_that_fell_has_no_rate(tmp_path: Path) -> None:
    readings = [Reading(100.0 + n, "", 0.01, {"vllm:prompt_tokens_total": 9.0 - n}) for n in range(9)]
    assert server_loads(make_run(tmp_path, readings))[0].input_tps is None


def test_table_of_the_server_survives_without_its_journal(tmp_path: Path) -> None:
    run = make_run(tmp_path, list(readings_of()))
    tables.write(tmp_path, run)
    for name in (SERVER_FILE, "trials.jsonl", "events.jsonl"):
        (tmp_path / name).unlink()
    assert tables.load(tmp_path).server.equals(run.server) and len(run.server) == 13
