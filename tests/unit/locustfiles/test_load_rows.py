"""From what users heard to the rows, the manifest and the verdict of an evaluation."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evaluation
from evaluation import manifest, report, slo
from evaluation.load_test import rows, verdict
from streaming.errors import UsageError
from tests.unit.locustfiles.heard import answer, write


def made(folder: Path, *answers: dict[str, Any], **options: Any) -> Any:
    rows.convert(write(folder, *answers), **options)
    return evaluation.load(folder)


def test_an_answer_becomes_a_trial_with_the_figures_of_any_other(tmp_path: Path) -> None:
    run = made(tmp_path, answer())
    trial = run.trials.iloc[0]
    found = {name: round(float(trial[name]), 6) for name in ("ttft_s", "e2e_s", "icl_p50_s", "output_tps", "connect_s")}
    assert found == {"ttft_s": 0.2, "e2e_s": 0.3, "icl_p50_s": 0.02, "output_tps": 50.0, "connect_s": 0.1}
    assert (trial["queue_s"], trial["ttft_total_s"]) == pytest.approx((0.4, 0.7))
    assert (trial["provider"], trial["model"], trial["transport"]) == ("sim", "steady", "sse")
    assert (trial["chunks"], trial["stalls"], trial["output_tokens"]) == (4, 0, 4)
    assert trial["sent_monotonic_s"] == 10.5
    assert math.isnan(trial["delay_mean_s"]), "over a wire nobody knows how long a strategy held what"
    assert len(run.events) == 5 and run.events["source_s"].isna().all()
    assert run.events["kind"].tolist() == ["delivered_text"] * 4 + ["delivered_finish"]


def test_reads_that_may_hide_some_disturb_it_and_stamps_that_may_be_late_are_not_known(tmp_path: Path) -> None:
    how: list[dict[str, Any]] = [{}, {"merged_reads": 2}, {"stamp_source": "callback"}, {"stamp_source": None}]
    run = made(tmp_path, *(answer(number, **changes) for number, changes in enumerate(how, start=1)))
    assert [None if pd.isna(found) else bool(found) for found in run.trials["disturbed"]] == [False, True, None, None]


def test_a_refused_answer_has_its_reason_and_no_time(tmp_path: Path) -> None:
    refused = answer(
        outcome="failed", error_type="rate", error_message="wait", http_status=429, usage={}, finish_reason=None,
        events=[[10.6, "failed", None, None]],
    )  # fmt: skip
    trial = made(tmp_path, refused).trials.iloc[0]
    assert (trial["outcome"], trial["error_type"], trial["http_status"]) == ("failed", "rate", 429)
    assert math.isnan(trial["ttft_s"])


def test_what_was_never_sent_is_a_failed_trial(tmp_path: Path) -> None:
    events = [[10.1, "failed", None, None]]
    nobody = answer(outcome="failed", sent_s=None, connect_s=None, headers_s=None, usage={}, events=events)
    trial = made(tmp_path, nobody).trials.iloc[0]
    assert math.isnan(trial["sent_monotonic_s"]) and math.isnan(trial["queue_s"])


def test_what_the_end_broke_off_is_no_trial_but_counted(tmp_path: Path) -> None:
    run = made(tmp_path, answer(), answer(2, outcome="open"))
    assert len(run.trials) == 1
    assert run.manifest["load"]["unfinished"] == 1


def test_what_was_asked_while_users_were_added_is_left_out_on_demand(tmp_path: Path) -> None:
    run = made(tmp_path, answer(), answer(2, ramping=True), without_ramp=True)
    assert list(run.trials["trial_id"]) == ["answer-1"]
    assert run.manifest["load"]["left_out_while_ramping"] == 1


def test_the_manifest_says_how_many_ran_at_once(tmp_path: Path) -> None:
    later = answer(2, asked_s=10.6, sent_s=10.6)
    assert made(tmp_path, answer(), later).manifest["loads"][0]["concurrency_max"] == 2


def test_fewer_at_once_than_asked_for_is_a_shortfall(tmp_path: Path) -> None:
    found = made(tmp_path, answer()).manifest["loads"][0]
    assert found["shortfall"] == "asked for 2 users, never more than 1 answers ran"


def test_converting_again_gives_every_trial_once(tmp_path: Path) -> None:
    made(tmp_path, answer())
    rows.convert(tmp_path)
    assert len(evaluation.load(tmp_path).trials) == 1


def test_a_killed_test_is_read_as_far_as_it_went(tmp_path: Path) -> None:
    rows.convert(write(tmp_path, answer(), ended=False))
    assert manifest.read(tmp_path)["complete"] is False
    assert len(evaluation.load(tmp_path).trials) == 1


def test_a_folder_without_a_load_test_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no load test: answers\.jsonl is missing"):
        rows.convert(tmp_path)


def test_an_answer_with_parts_missing_is_named(tmp_path: Path) -> None:
    broken = answer()
    del broken["events"]
    with pytest.raises(UsageError, match="line 2: events is missing"):
        rows.convert(write(tmp_path, broken))


def test_the_folder_opens_in_the_report_of_an_evaluation(tmp_path: Path) -> None:
    rows.convert(write(tmp_path, *(answer(number) for number in range(8))))
    report.rebuild(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "8 of 8 trials completed" in text
    assert "transport: sse" in text


def judged(folder: Path, objectives: str, *answers: dict[str, Any]) -> verdict.Judged:
    return verdict.judge(write(folder, *answers), slo.parse(objectives))


def test_an_slo_is_met_or_missed(tmp_path: Path) -> None:
    assert judged(tmp_path, "ttft_p95<250ms,icl_p99<25ms,failed<1%", answer()).met
    missed = judged(tmp_path, "ttft_p95<150ms", answer())
    assert not missed.met
    assert missed.facts["slo"]["missed"][0].startswith("ttft_p95<150ms: missed by 50 ms")


def test_a_truncated_answer_is_a_failure(tmp_path: Path) -> None:
    cut = answer(2, outcome="truncated", error_type="truncated", finish_reason=None)
    assert not judged(tmp_path, "failed<1%", answer(), cut).met


def test_an_answer_that_its_user_stopped_is_none(tmp_path: Path) -> None:
    found = judged(tmp_path, "failed<1%", answer(), answer(2, outcome="cancelled", finish_reason=None))
    assert found.met
    assert found.facts["outcomes"] == {"completed": 1, "cancelled": 1}


def test_nothing_completed_is_never_met(tmp_path: Path) -> None:
    assert not judged(tmp_path, "failed<100%", answer(outcome="failed", error_type="rate")).met
