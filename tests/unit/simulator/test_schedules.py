from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from simulator.schedules import PROFILES, Schedule, input_tokens, profile_named, schedule, seed_for
from streaming.errors import UsageError

SEEDS = range(20)


def gaps(laid_out: Schedule) -> list[float]:
    times = [step.at_s for step in laid_out.steps]
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_seed_gives_the_same_schedule(name: str) -> None:
    first = schedule(PROFILES[name], 7)
    schedule.cache_clear()
    assert schedule(PROFILES[name], 7) == first


@pytest.mark.parametrize("name", PROFILES)
def test_another_seed_gives_another_text(name: str) -> None:
    assert len({schedule(PROFILES[name], seed).text for seed in SEEDS}) > len(SEEDS) // 2


def test_steady_is_exact() -> None:
    laid_out = schedule(PROFILES["steady"], 1)
    assert [step.at_s for step in laid_out.steps] == pytest.approx([0.2 + 0.02 * i for i in range(64)], abs=1e-12)
    assert (laid_out.ending, laid_out.finish_reason) == ("finish", "stop")
    assert laid_out.end_at_s == pytest.approx(0.2 + 64 * 0.02)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_time_never_runs_backwards_and_no_step_is_empty(name: str, seed: int) -> None:
    laid_out = schedule(PROFILES[name], seed)
    assert laid_out.steps[0].at_s == PROFILES[name].ttft_s
    assert min(gaps(laid_out)) >= 0
    assert laid_out.end_at_s >= laid_out.steps[-1].at_s
    assert all(step.text for step in laid_out.steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_bursty_comes_in_groups_with_pauses_that_are_no_stalls(seed: int) -> None:
    found = gaps(schedule(PROFILES["bursty"], seed))
    pauses = [gap for gap in found if gap]
    assert 4 <= len(pauses) <= 64 // 4
    assert all(0.08 - 1e-9 <= pause < 0.25 for pause in pauses)
    assert median(found) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_stalling_has_its_two_stalls_and_is_steady_otherwise(seed: int) -> None:
    found = gaps(schedule(PROFILES["stalling"], seed))
    stalls = [gap for gap in found if gap > max(0.25, 5 * median(found))]
    assert stalls == pytest.approx([0.6, 1.0])
    assert sorted(found)[:-2] == pytest.approx([0.02] * 61)


def test_slow_start_takes_two_seconds() -> None:
    laid_out = schedule(PROFILES["slow-start"], 1)
    assert laid_out.steps[0].at_s == 2.0
    assert gaps(laid_out) == pytest.approx([0.02] * 63)


def test_thinking_comes_first_and_counts_as_output() -> None:
    laid_out = schedule(PROFILES["thinking"], 1)
    assert [step.kind for step in laid_out.steps] == ["thinking"] * 24 + ["text"] * 64
    assert (laid_out.thinking_tokens, laid_out.output_tokens) == (24, 88)
    assert laid_out.thinking.startswith("[simulated] ")


@pytest.mark.parametrize("name", ["cut", "error"])
def test_a_broken_profile_stops_half_way_without_a_reason(name: str) -> None:
    laid_out = schedule(PROFILES[name], 1)
    assert (laid_out.ending, laid_out.finish_reason, len(laid_out.steps)) == (name, None, 32)
    assert laid_out.steps == schedule(replace(PROFILES["steady"], name=name), 1).steps[:32]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("tokens", [0, 1, 5, 31])
def test_a_limit_cuts_and_changes_nothing_before(name: str, tokens: int) -> None:
    laid_out = schedule(PROFILES[name], 3, tokens=tokens)
    assert laid_out.steps == schedule(PROFILES[name], 3).steps[:tokens]
    assert (laid_out.ending, laid_out.finish_reason) == ("finish", "length")


@pytest.mark.parametrize("name", PROFILES)
def test_a_limit_that_is_not_reached_changes_nothing(name: str) -> None:
    assert schedule(PROFILES[name], 3, tokens=88) == schedule(PROFILES[name], 3)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 17, 64, 300])
@pytest.mark.parametrize("seed", range(5))
def test_the_text_has_a_token_a_step_and_says_what_it_is(tokens: int, seed: int) -> None:
    text = schedule(replace(PROFILES["steady"], tokens=tokens), seed).text
    assert "[simulated] ".startswith(text) if tokens <= 3 else text.startswith("[simulated] ")
    assert tokens <= 3 or text.endswith(".")
    assert tokens < 64 or 3 <= len(text) / tokens <= 5


def test_an_answer_of_no_tokens_ends_after_its_wait() -> None:
    laid_out = schedule(replace(PROFILES["steady"], tokens=0), 1)
    assert (laid_out.steps, laid_out.text, laid_out.finish_reason) == ((), "", "stop")
    assert laid_out.end_at_s == pytest.approx(0.22)


def test_an_unknown_profile_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"no timing profile 'steadi'.*steady, bursty"):
        profile_named("steadi")
    assert profile_named("bursty") is PROFILES["bursty"]


def test_questions_get_seeds_of_their_own() -> None:
    assert seed_for(1, "a") == seed_for(1, "a")
    assert len({seed_for(1, "a"), seed_for(2, "a"), seed_for(1, "b"), seed_for(-1, "\ud800")}) == 4


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_input_tokens_are_four_characters(text: str, tokens: int) -> None:
    assert input_tokens(text) == tokens
