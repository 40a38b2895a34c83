from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from simulator.schedules import PROFILES, Schedule, get_profile, input_tokens, make_schedule, seed_for
from streaming.errors import UsageError

SEEDS = range(20)


def step_gaps_s(laid_out: Schedule) -> list[float]:
    times = [step.at_s for step in laid_out.steps]
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("name", PROFILES)
def test_same_seed_gives_same_schedule(name: str) -> None:
    first = make_schedule(PROFILES[name], 7)
    make_schedule.cache_clear()
    assert make_schedule(PROFILES[name], 7) == first


@pytest.mark.parametrize("name", PROFILES)
def test_different_seeds_give_different_texts(name: str) -> None:
    assert len({make_schedule(PROFILES[name], seed).text for seed in SEEDS}) > len(SEEDS) // 2


def test_steady_profile_has_exact_times() -> None:
    laid_out = make_schedule(PROFILES["steady"], 1)
    assert [step.at_s for step in laid_out.steps] == pytest.approx([0.2 + 0.02 * i for i in range(64)], abs=1e-12)
    assert (laid_out.ending, laid_out.finish_reason) == ("finish", "stop")
    assert laid_out.end_at_s == pytest.approx(0.2 + 64 * 0.02)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_step_times_never_decrease_and_steps_are_not_empty(name: str, seed: int) -> None:
    laid_out = make_schedule(PROFILES[name], seed)
    assert laid_out.steps[0].at_s == PROFILES[name].ttft_s
    assert min(step_gaps_s(laid_out)) >= 0
    assert laid_out.end_at_s >= laid_out.steps[-1].at_s
    assert all(step.text for step in laid_out.steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_bursty_profile_has_groups_with_pauses_below_stall(seed: int) -> None:
    result = step_gaps_s(make_schedule(PROFILES["bursty"], seed))
    pauses = [gap for gap in result if gap]
    assert 4 <= len(pauses) <= 64 // 4
    assert all(0.08 - 1e-9 <= pause < 0.25 for pause in pauses)
    assert median(result) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_stalling_profile_has_two_stalls_only(seed: int) -> None:
    result = step_gaps_s(make_schedule(PROFILES["stalling"], seed))
    stalls = [gap for gap in result if gap > max(0.25, 5 * median(result))]
    assert stalls == pytest.approx([0.6, 1.0])
    assert sorted(result)[:-2] == pytest.approx([0.02] * 61)


def test_slow_start_profile_starts_after_two_seconds() -> None:
    laid_out = make_schedule(PROFILES["slow-start"], 1)
    assert laid_out.steps[0].at_s == 2.0
    assert step_gaps_s(laid_out) == pytest.approx([0.02] * 63)


def test_thinking_profile_starts_with_thinking_counted_as_output() -> None:
    laid_out = make_schedule(PROFILES["thinking"], 1)
    assert [step.kind for step in laid_out.steps] == ["thinking"] * 24 + ["text"] * 64
    assert (laid_out.thinking_tokens, laid_out.output_tokens) == (24, 88)
    assert laid_out.thinking.startswith("[simulated] ")


@pytest.mark.parametrize("name", ["cut", "error"])
def test_broken_profile_stops_half_way_without_finish_reason(name: str) -> None:
    laid_out = make_schedule(PROFILES[name], 1)
    assert (laid_out.ending, laid_out.finish_reason, len(laid_out.steps)) == (name, None, 32)
    assert laid_out.steps == make_schedule(replace(PROFILES["steady"], name=name), 1).steps[:32]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("tokens", [0, 1, 5, 31])
def test_token_limit_truncates_without_changing_earlier_steps(name: str, tokens: int) -> None:
    laid_out = make_schedule(PROFILES[name], 3, tokens=tokens)
    assert laid_out.steps == make_schedule(PROFILES[name], 3).steps[:tokens]
    assert (laid_out.ending, laid_out.finish_reason) == ("finish", "length")


@pytest.mark.parametrize("name", PROFILES)
def test_unreached_token_limit_changes_nothing(name: str) -> None:
    assert make_schedule(PROFILES[name], 3, tokens=88) == make_schedule(PROFILES[name], 3)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 17, 64, 300])
@pytest.mark.parametrize("seed", range(5))
def test_text_has_one_token_per_step_and_says_simulated(tokens: int, seed: int) -> None:
    text = make_schedule(replace(PROFILES["steady"], tokens=tokens), seed).text
    assert "[simulated] ".startswith(text) if tokens <= 3 else text.startswith("[simulated] ")
    assert tokens <= 3 or text.endswith(".")
    assert tokens < 64 or 3 <= len(text) / tokens <= 5


def test_answer_of_zero_tokens_ends_after_ttft() -> None:
    laid_out = make_schedule(replace(PROFILES["steady"], tokens=0), 1)
    assert (laid_out.steps, laid_out.text, laid_out.finish_reason) == ((), "", "stop")
    assert laid_out.end_at_s == pytest.approx(0.22)


def test_unknown_profile_is_rejected_with_list() -> None:
    with pytest.raises(UsageError, match=r"timing profile 'steadi': unknown.*steady, bursty"):
        get_profile("steadi")
    assert get_profile("bursty") is PROFILES["bursty"]


def test_prompts_get_distinct_seeds() -> None:
    assert seed_for(1, "a") == seed_for(1, "a")
    assert len({seed_for(1, "a"), seed_for(2, "a"), seed_for(1, "b"), seed_for(-1, "\ud800")}) == 4


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_input_tokens_count_four_characters_each(text: str, tokens: int) -> None:
    assert input_tokens(text) == tokens
