"""Verdicts between providers on runs with a known truth: traps of caches and failures, families, and their words."""

from collections import Counter

import numpy as np
import pytest

from benchmarks._known_truth import Design, Floats, Noise, draw_latencies, make_run
from evaluation.analysis import summary, verdicts
from evaluation.analysis.verdicts import FailureCount
from evaluation.reports import cautions, verdict_text
from evaluation.tables import Run

DESIGN = Design(24)
RUNS = 4


def headline(run: Run) -> str:
    return verdict_text.headline(summary.groups(run), verdicts.compare_providers(run))


def draw_run(seed: int, **medians_s: float) -> Run:
    drawn = draw_latencies(np.random.default_rng(seed), DESIGN, list(medians_s.values()), Noise())
    return make_run(DESIGN, dict(zip(medians_s, drawn, strict=True)))


def test_slower_provider_is_named_with_its_interval() -> None:
    text = headline(draw_run(1, a=0.2, b=0.4))
    assert text.startswith("a is better than b: first answer text of b is ")
    assert " % slower [" in text and "(24 pairs)" in text and "Failed" not in text


def test_equal_providers_cannot_be_told_apart() -> None:
    text = headline(draw_run(2, a=0.3, b=0.3))
    assert text.startswith("Cannot tell a from b") and "better" not in text and "faster" not in text
    assert "this run finds a difference of 3" in text and "more prompts" in text


def test_identical_latencies_are_equal_within_the_margin() -> None:
    run = make_run(DESIGN, {"a": np.full(24, 0.2), "b": np.full(24, 0.201)})
    assert headline(run).startswith("a and b are equal within the margin") and "margin 2 %" in headline(run)


def test_best_of_three_providers_leads_the_report() -> None:
    text = headline(draw_run(3, a=0.9, b=0.3, c=0.6))
    assert text.startswith("b is better than each of the 2 others: first answer text of a is ")
    assert "c is " in text


def test_three_equal_providers_have_no_leader() -> None:
    assert headline(draw_run(4, a=0.3, b=0.3, c=0.3)).startswith("Cannot tell the 3 providers apart")


def test_partial_order_of_three_is_stated_pair_by_pair() -> None:
    text = headline(draw_run(5, a=0.3, b=0.3, c=0.9))
    assert text.startswith("No provider leads all others: ") and text.count("is better than") == 2


def test_family_of_three_equal_providers_makes_few_claims() -> None:
    claims = 0
    for seed in range(100, 112):
        claims += any(
            one.verdict in ("better", "worse") for one in verdicts.compare_providers(draw_run(seed, a=1, b=1, c=1))
        )
    assert claims <= 2


def cache_run(seed: int, design: Design) -> Run:
    """Return a run of `a`, which needs 800 ms for a fresh prompt and 100 ms for a repeated one, and `b` with 300 ms."""
    rng = np.random.default_rng(seed)
    typical = np.where(np.arange(design.blocks) < design.prompts, 0.8, 0.1)
    a: Floats = typical * np.exp(rng.normal(0, 0.3, design.blocks))
    return make_run(design, {"a": a, "b": 0.3 * np.exp(rng.normal(0, 0.3, design.blocks))})


def test_cache_cannot_win_with_the_default_design() -> None:
    assert all(headline(cache_run(seed, DESIGN)).startswith("b is better than a:") for seed in range(RUNS))


def test_repeated_prompts_stand_apart_with_a_warning() -> None:
    run = cache_run(1, Design(24, 3))
    groups, result = summary.groups(run), verdicts.compare_providers(run)
    assert [(group.name, group.population) for group in groups] == [
        ("a", "fresh"), ("a", "repeated"), ("b", "fresh"), ("b", "repeated"),
    ]  # fmt: skip
    assert headline(run).startswith("b is better than a for fresh prompts:")
    notes = list(cautions.iter_cautions(run, groups, result))
    assert any(note.startswith("Prompts were asked again, and a cache may answer") for note in notes)
    assert any(note.startswith("a answers repeated prompts after ") and note.endswith("a cache.") for note in notes)
    assert any(note.startswith("a is better than b for repeated prompts") for note in notes)


def test_freshness_is_found_by_order_where_it_was_not_recorded() -> None:
    run = make_run(Design(6, 2), {"a": np.full(12, 0.2)}, fresh=None)
    assert [(group.population, group.trials) for group in summary.groups(run)] == [("fresh", 6), ("repeated", 6)]


def failing_run(seed: int, noise: Noise, faster: float = 1.0) -> Run:
    """Return a run of `a`, which fails on its slowest 31 %, and of `b`, which never fails."""
    a, b = draw_latencies(np.random.default_rng(seed), DESIGN, (0.3 / faster, 0.3), noise)
    return make_run(DESIGN, {"a": np.where(a > np.quantile(a, 0.69), np.inf, a), "b": b})


@pytest.mark.parametrize("faster", [1.0, 3.0, 20.0])
def test_provider_that_fails_on_its_slowest_third_is_never_better(faster: float) -> None:
    texts = [headline(failing_run(seed, Noise(sigma=0.6), faster)) for seed in range(RUNS)]
    assert not any("a is better" in text for text in texts)
    assert all("Failed: a 8 of 24 (33 %)." in text for text in texts)


def test_failures_that_withhold_a_verdict_are_named() -> None:
    text = headline(failing_run(1, Noise(sigma=0.1, prompt=0.1), 20.0))
    assert "no preference while failures differ: a failed 8 of 24, b 0 of 24" in text and "sign test" in text


def test_single_failure_does_not_hide_a_clear_difference() -> None:
    a, b = draw_latencies(np.random.default_rng(6), DESIGN, (0.2, 0.8), Noise())
    a[3] = np.inf
    assert headline(make_run(DESIGN, {"a": a, "b": b})).startswith("a is better than b: first answer text of b is ")


@pytest.mark.parametrize(
    ("own", "other", "exceeds"),
    [((1, 24), (0, 24), False), ((3, 24), (0, 24), True), ((2, 24), (2, 24), False), ((13, 24), (20, 24), True),
     ((12, 1000), (0, 1000), True), ((0, 24), (7, 24), False)],
)  # fmt: skip
def test_failure_excess_is_decided_by_points_and_exact_test(
    own: tuple[int, int], other: tuple[int, int], exceeds: bool
) -> None:
    assert FailureCount(*own).exceeds(FailureCount(*other)) is exceeds


def test_thinking_is_said_and_answer_text_decides() -> None:
    answers = {"a": np.full(24, 2.0), "b": np.full(24, 0.6)}
    run = make_run(DESIGN, answers, ttft_s={"a": 0.2, "b": 0.6})
    result = verdicts.compare_providers(run)
    assert headline(run).startswith("b is better than a:")
    (note,) = cautions.iter_cautions(run, summary.groups(run), result)
    assert note.startswith("a shows its thinking first, 1800 ms (median) before its answer text")


def test_length_and_bursts_are_said_beside_the_verdict() -> None:
    run = make_run(
        DESIGN, {"a": np.full(24, 0.2), "b": np.full(24, 0.4)}, output_tokens={"a": 40, "b": 200},
        chunks={"a": 40, "b": 10}, tokens_per_chunk={"a": 1.0, "b": 20.0},
        token_source=dict.fromkeys("ab", "reported"), thinking_tokens=dict.fromkeys("ab", 0),
    )  # fmt: skip
    length, burst = cautions.iter_cautions(run, summary.groups(run), verdicts.compare_providers(run))
    assert length.startswith("The answers differ in length (median tokens: a 40.0, b 200)")
    assert burst.startswith("b sends about 20.0 tokens in a chunk")


def test_cancelled_trials_are_neither_failures_nor_pairs() -> None:
    run = draw_run(7, a=0.2, b=0.4)
    cancelled = run.trials["block"].le(4) & run.trials["name"].eq("a")
    run.trials.loc[cancelled, "outcome"] = "cancelled"
    (result,) = verdicts.compare_providers(run)
    assert result.ratio.pairs == 20 and result.a_failures == FailureCount(0, 20)


def test_missing_partners_reduce_the_pairs() -> None:
    run = draw_run(8, a=0.2, b=0.4)
    kept = run.trials[~(run.trials["name"].eq("b") & run.trials["block"].gt(10))]
    (result,) = verdicts.compare_providers(Run(kept, run.events, run.manifest))
    assert result.ratio.pairs == 10
    notes = list(cautions.iter_cautions(Run(kept, run.events, run.manifest), [], [result]))
    assert notes == ["The providers had different numbers of trials (a 24, b 10): only pairs are compared."]


def test_different_spreads_of_equal_providers_raise_few_alarms() -> None:
    rng, words = np.random.default_rng(9), Counter[str]()
    for _ in range(15):
        shared = rng.normal(0, 0.3, 24)
        a, b = 0.3 * np.exp(shared + rng.normal(0, 0.05, 24)), 0.3 * np.exp(shared + rng.normal(0, 0.8, 24))
        words[verdicts.compare_providers(make_run(DESIGN, {"a": a, "b": b}))[0].verdict] += 1
    assert words["better"] + words["worse"] <= 2


def test_difference_of_few_slow_trials_is_said_beside_the_verdict() -> None:
    pattern = np.exp(np.random.default_rng(10).normal(0, 0.02, 24))
    tail = np.where(np.arange(24) % 4 == 1, 8.0, 1.0)
    run = make_run(DESIGN, {"a": np.full(24, 0.3), "b": 0.3 * pattern * tail})
    result = verdicts.compare_providers(run)
    assert headline(run).startswith("a is better than b")
    (note,) = cautions.iter_cautions(run, summary.groups(run), result)
    assert note.startswith("a and b differ by some slow trials, which a verdict counts: in the median pair the first")
    even = draw_run(1, a=0.2, b=0.4)
    assert not list(cautions.iter_cautions(even, summary.groups(even), verdicts.compare_providers(even)))


def test_provider_that_fails_from_some_trial_on_is_said_to_have_changed() -> None:
    late, early = np.full(24, 0.2), np.full(24, 0.2)
    late[16:], early[:8] = np.inf, np.inf
    run = make_run(DESIGN, {"a": np.full(24, 0.4), "b": late, "c": early})
    notes = list(cautions.iter_cautions(run, summary.groups(run), verdicts.compare_providers(run)))
    assert notes == [
        "b completed its first 16 trials, and 8 of the 8 after them failed: something changed during the run."
    ]


def test_run_whose_answers_were_all_stopped_has_no_late_failures() -> None:
    """Cancelled trials count neither as completed nor as failed."""
    run = draw_run(1, a=0.2)
    stopped = Run(run.trials.assign(outcome="cancelled"), run.events, run.manifest)
    assert not list(cautions.iter_cautions(stopped, summary.groups(stopped), verdicts.compare_providers(stopped)))
