"""The conversion of recorded answers to the rows, the manifest and the verdict of an evaluation."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evaluation
from evaluation import manifest
from evaluation.analysis import slo
from evaluation.load_test import import_answers, judge
from evaluation.reports import markdown
from streaming.errors import UsageError
from tests.unit.locustfiles.answer_factories import HEADER, make_answer, write_answers


def convert_and_load(folder: Path, *answers: dict[str, Any], **options: Any) -> Any:
    import_answers.write_journal(write_answers(folder, *answers), **options)
    return evaluation.load(folder)


def test_answer_converts_to_trial_with_metrics(tmp_path: Path) -> None:
    run = convert_and_load(tmp_path, make_answer())
    trial = run.trials.iloc[0]
    result = {
        name: round(float(trial[name]), 6) for name in ("ttft_s", "e2e_s", "icl_p50_s", "output_tps", "connect_s")
    }
    assert result == {"ttft_s": 0.2, "e2e_s": 0.3, "icl_p50_s": 0.02, "output_tps": 50.0, "connect_s": 0.1}
    assert (trial["queue_s"], trial["ttft_total_s"]) == pytest.approx((0.4, 0.7))
    assert (trial["provider"], trial["model"], trial["transport"]) == ("sim", "steady", "sse")
    assert (trial["chunks"], trial["stalls"], trial["output_tokens"]) == (4, 0, 4)
    assert trial["sent_monotonic_s"] == 10.5
    assert math.isnan(trial["delay_mean_s"]), "over a wire nobody knows how long a strategy held what"
    assert len(run.events) == 5 and run.events["source_s"].isna().all()
    assert run.events["kind"].tolist() == ["delivered_text"] * 4 + ["delivered_finish"]


def test_steps_of_a_sweep_are_levels_without_the_answers_between_them(tmp_path: Path) -> None:
    answers = [make_answer(number, level=level) for number, level in enumerate((1, 4, 4), start=1)]
    answers.append(make_answer(9, level=4, ramping=True))
    write_answers(tmp_path, *answers, header={**HEADER, "levels": [1, 4], "users": 4})
    import_answers.write_journal(tmp_path)
    run = evaluation.load(tmp_path)
    assert run.is_sweep and run.trials["level"].tolist() == [1.0, 4.0, 4.0]
    loads = run.manifest["loads"]
    assert [(load["level"], load["concurrency_max"]) for load in loads] == [(1.0, 1), (4.0, 2)]
    assert loads[0]["shortfall"] is None and loads[1]["shortfall"] == "4 users requested, at most 2 concurrent answers"


def test_merged_reads_mark_trial_disturbed_and_callback_timestamps_unknown(tmp_path: Path) -> None:
    how: list[dict[str, Any]] = [{}, {"merged_reads": 2}, {"stamp_source": "callback"}, {"stamp_source": None}]
    run = convert_and_load(tmp_path, *(make_answer(number, **changes) for number, changes in enumerate(how, start=1)))
    assert [None if pd.isna(entry) else bool(entry) for entry in run.trials["disturbed"]] == [False, True, None, None]


def test_rejected_answer_has_reason_and_no_times(tmp_path: Path) -> None:
    refused = make_answer(
        outcome="failed", error_type="rate", error_message="wait", http_status=429, usage={}, finish_reason=None,
        events=[[10.6, "failed", None, None]],
    )  # fmt: skip
    trial = convert_and_load(tmp_path, refused).trials.iloc[0]
    assert (trial["outcome"], trial["error_type"], trial["http_status"]) == ("failed", "rate", 429)
    assert math.isnan(trial["ttft_s"])


def test_unsent_answer_is_failed_trial(tmp_path: Path) -> None:
    events = [[10.1, "failed", None, None]]
    nobody = make_answer(outcome="failed", sent_s=None, connect_s=None, headers_s=None, usage={}, events=events)
    trial = convert_and_load(tmp_path, nobody).trials.iloc[0]
    assert math.isnan(trial["sent_monotonic_s"]) and math.isnan(trial["queue_s"])


def test_unfinished_answer_is_counted_but_no_trial(tmp_path: Path) -> None:
    run = convert_and_load(tmp_path, make_answer(), make_answer(2, outcome="open"))
    assert len(run.trials) == 1
    assert run.manifest["load"]["unfinished"] == 1


def test_ramp_up_answers_can_be_excluded(tmp_path: Path) -> None:
    run = convert_and_load(tmp_path, make_answer(), make_answer(2, ramping=True), without_ramp=True)
    assert list(run.trials["trial_id"]) == ["answer-1"]
    assert run.manifest["load"]["left_out_while_ramping"] == 1


def test_manifest_records_maximum_concurrency(tmp_path: Path) -> None:
    later = make_answer(2, asked_s=10.6, sent_s=10.6)
    assert convert_and_load(tmp_path, make_answer(), later).manifest["loads"][0]["concurrency_max"] == 2


def test_lower_concurrency_than_users_is_a_shortfall(tmp_path: Path) -> None:
    result = convert_and_load(tmp_path, make_answer()).manifest["loads"][0]
    assert result["shortfall"] == "2 users requested, at most 1 concurrent answers"


def test_repeated_conversion_keeps_each_trial_once(tmp_path: Path) -> None:
    convert_and_load(tmp_path, make_answer())
    import_answers.write_journal(tmp_path)
    assert len(evaluation.load(tmp_path).trials) == 1


def test_killed_load_test_is_converted_as_incomplete(tmp_path: Path) -> None:
    import_answers.write_journal(write_answers(tmp_path, make_answer(), ended=False))
    assert manifest.read(tmp_path)["complete"] is False
    assert len(evaluation.load(tmp_path).trials) == 1


def test_folder_without_load_test_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"contains no load test, because answers\.jsonl is missing"):
        import_answers.write_journal(tmp_path)


def test_incomplete_answer_record_is_named(tmp_path: Path) -> None:
    broken = make_answer()
    del broken["events"]
    with pytest.raises(UsageError, match="line 2: events is missing"):
        import_answers.write_journal(write_answers(tmp_path, broken))


def test_converted_folder_produces_evaluation_report(tmp_path: Path) -> None:
    import_answers.write_journal(write_answers(tmp_path, *(make_answer(number) for number in range(8))))
    markdown.write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "8 of 8 trials completed" in text
    assert "transport: sse" in text


def judge_answers(folder: Path, objectives: str, *answers: dict[str, Any]) -> judge.LoadTestVerdict:
    return judge.judge_load_test(write_answers(folder, *answers), slo.parse_slo(objectives))


def test_load_test_slo_is_met_or_missed(tmp_path: Path) -> None:
    assert judge_answers(tmp_path, "ttft_max<250ms,icl_max<25ms", make_answer()).outcome == "met"
    missed = judge_answers(tmp_path, "ttft_max<150ms", make_answer())
    assert missed.outcome == "missed"
    assert missed.facts["slo"]["missed"][0].startswith("ttft_max<150ms: missed by 50 ms")


def test_load_test_with_few_answers_cannot_tell(tmp_path: Path) -> None:
    result = judge_answers(tmp_path, "ttft_p95<250ms,failed<1%", make_answer())
    assert result.outcome == "too few" and result.holds_here
    assert "from 1 answer, 59 are needed" in result.facts["slo"]["too_few"][0]


def test_truncated_answer_counts_as_failed(tmp_path: Path) -> None:
    cut = make_answer(2, outcome="truncated", error_type="truncated", finish_reason=None)
    assert judge_answers(tmp_path, "failed<1%", make_answer(), cut).outcome == "missed"


def test_cancelled_answer_does_not_count_as_failed(tmp_path: Path) -> None:
    cancelled = make_answer(2, outcome="cancelled", finish_reason=None)
    result = judge_answers(tmp_path, "failed<1%", make_answer(), cancelled)
    assert result.holds_here and [verdict.n for verdict in result.verdicts] == [1]
    assert result.facts["outcomes"] == {"completed": 1, "cancelled": 1}


def test_load_test_without_completed_answer_is_never_met(tmp_path: Path) -> None:
    result = judge_answers(tmp_path, "failed<100%", make_answer(outcome="failed", error_type="rate"))
    assert result.outcome == "missed" and not result.holds_here
