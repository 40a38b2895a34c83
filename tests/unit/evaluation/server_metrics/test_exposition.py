"""Prometheus's text format of several servers, mapped to one schema."""

import pytest

from evaluation.server_metrics.exposition import MAX_SERIES, find_server, parse_exposition
from evaluation.server_metrics.readings import Reading
from evaluation.server_metrics.table import COLUMNS, build_server_table

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.9
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1026.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{le="0.3"} 1.0
vllm:request_queue_time_seconds_bucket{le="+Inf"} 2.0
vllm:request_queue_time_seconds_count 2.0
vllm:request_queue_time_seconds_sum 0.5
"""
SGLANG = """
sglang:num_running_reqs{model_name="m"} 8
sglang:num_queue_reqs{model_name="m"} 4
sglang:token_usage{model_name="m"} 0.52
sglang:generation_tokens_total{model_name="m"} 7
"""
SGLANG_RANKS = """
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="-1",tp_rank="0"} 4.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="0",tp_rank="0"} 10.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 14.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="2"} 3.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0"} 2.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="1"} 2.0
"""
LLAMA_CPP = """
llamacpp:requests_processing 2
llamacpp:requests_deferred 46
llamacpp:tokens_predicted_total 39080
llamacpp:predicted_tokens_seconds nan
"""
OURS = """
streamgauge_streams_open{wire="sse"} 2.0
streamgauge_streams_open{wire="openai"} 1.0
streamgauge_tokens_total{provider="sim",kind="input",source="reported"} 39.0
streamgauge_tokens_total{provider="sim",kind="output",source="reported"} 128.0
"""


@pytest.mark.parametrize(
    ("text", "server", "values"),
    [
        (VLLM, "vLLM", {"running": 7, "waiting": 2, "cache_use": 0.75, "input_tokens": 1026, "queue_s_sum": 0.5}),
        (SGLANG, "SGLang", {"running": 8, "waiting": 4, "cache_use": 0.52, "output_tokens": 7}),
        (SGLANG_RANKS, "SGLang", {"running": 17, "waiting": 2}),
        (LLAMA_CPP, "llama.cpp", {"running": 2, "waiting": 46, "output_tokens": 39080}),
        (OURS, "Streamgauge", {"running": 3, "input_tokens": 39, "output_tokens": 128}),
    ],
)
def test_known_names_are_mapped_to_one_schema(text: str, server: str, values: dict[str, float]) -> None:
    samples = parse_exposition(text)
    table = build_server_table([Reading(1.0, "2026-01-01T00:00:00+00:00", 0.01, samples)])
    row = table.iloc[0]
    assert find_server(samples) == row["server"] == server
    assert {name: row[name] for name in values} == values
    assert row[list(COLUMNS[5:])].notna().sum() == len(values) + (text == VLLM)  # and the histogram's count
    assert set(samples) <= set(table.columns) and not any("le=" in name for name in samples)


def test_known_series_are_kept_before_all_others() -> None:
    many = "".join(f'other{{n="{number}"}} 1\n' for number in range(2 * MAX_SERIES))
    samples = parse_exposition(many + LLAMA_CPP)
    assert len(samples) == MAX_SERIES and samples["llamacpp:requests_deferred"] == 46


def test_series_that_do_not_change_keep_their_values_in_the_table() -> None:
    readings = [
        Reading(1.0, "", 0.01, {"llamacpp:requests_deferred": 2.0, "llamacpp:requests_processing": 4.0}),
        Reading(2.0, "", 0.01, {"llamacpp:requests_deferred": 3.0}),
        Reading(3.0, "", 0.01, {}, "no response in 5 s"),
        Reading(4.0, "", 0.01, {"llamacpp:requests_deferred": 1.0}),
    ]
    table = build_server_table(readings)
    assert table["waiting"].tolist()[:2] == [2, 3] and table["running"].tolist()[:2] == [4, 4]
    assert table["waiting"].isna().tolist() == [False, False, True, False] and table["running"].isna()[3]
    assert table["error"].dropna().tolist() == ["no response in 5 s"]


def test_run_without_readings_has_an_empty_table_with_all_columns() -> None:
    assert list(build_server_table().columns) == list(COLUMNS)
