"""The order of trials in a run, their nonces, and which of them a cache may answer."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.messages import prompt_messages
from evaluation.scenario import PlannedTrial, Scenario, full_name, plan, strategy_names, warm_trials
from streaming.errors import UsageError
from streaming.messages import Message

PROMPTS = tuple(Prompt(f"p{i}", f"Question {i}?") for i in range(3))


def make_scenario(**changes: object) -> Scenario:
    fields: dict[str, object] = {
        "providers": ("a", "b"),
        "strategies": ("direct", "whole"),
        "prompts": PROMPTS,
        "repeats": 4,
        "seed": 7,
    }
    return Scenario(**(fields | changes))  # type: ignore[arg-type] # the fields are the scenario's own, by name


def test_plan_contains_every_cell_exactly_once() -> None:
    planned = plan(make_scenario())
    cells = Counter((p.provider, p.strategy, p.prompt.id, p.repeat) for p in planned)
    assert len(cells) == make_scenario().trials == 2 * 2 * 3 * 4 and set(cells.values()) == {1}
    assert [p.number for p in planned] == list(range(1, len(planned) + 1))


def test_plan_groups_cells_of_one_prompt_and_repeat_into_blocks() -> None:
    planned = plan(make_scenario())
    for start in range(0, len(planned), 4):
        block = planned[start : start + 4]
        assert len({(p.block, p.repeat, p.prompt.id) for p in block}) == 1
        assert len({(p.provider, p.strategy) for p in block}) == 4
    assert [p.block for p in planned[::4]] == list(range(1, 13))


def test_plan_treats_transports_as_cells_of_a_block() -> None:
    expected = make_scenario(transport=("in-process", "sse", "websocket"))
    planned = plan(expected)
    assert (
        len({(p.provider, p.strategy, p.transport, p.prompt.id, p.repeat) for p in planned}) == expected.trials == 144
    )
    for start in range(0, len(planned), 12):
        block = planned[start : start + 12]
        assert len({(p.block, p.prompt.id) for p in block}) == 1
        assert len({(p.provider, p.strategy, p.transport) for p in block}) == 12
    assert plan(make_scenario(transport=("sse",)))[0].provider == plan(make_scenario())[0].provider, (
        "one transport: one order"
    )


def test_plan_order_is_shuffled_by_seed() -> None:
    assert plan(make_scenario()) == plan(make_scenario())
    assert plan(make_scenario()) != plan(make_scenario(seed=8))
    firsts = {(p.provider, p.strategy) for p in plan(make_scenario(repeats=20))[::4]}
    assert len(firsts) == 4, "each cell is the first of a block at times"


def test_plan_balances_order_of_every_pair() -> None:
    first: Counter[tuple[str, str]] = Counter()
    planned = plan(make_scenario())
    for start in range(0, len(planned), 4):
        cells = [f"{p.provider} {p.strategy}" for p in planned[start : start + 4]]
        first.update((a, b) for place, a in enumerate(cells) for b in cells[place + 1 :])
    assert len(first) == 12 and set(first.values()) == {6}, "12 blocks, 6 for either order of every pair"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"providers": ()}, "providers: none is named"),
        ({"strategies": ("direct", "direct")}, "strategies: one is repeated"),
        ({"repeats": 0}, "repeats: too small"),
        ({"concurrency": 0}, "concurrency: too small"),
        ({"max_tokens": 0}, "max-tokens: too small"),
        ({"retries": -1}, "retries: too small"),
        ({"retries": 99999}, "retries: too many"),
        ({"seed": -5}, "seed: too small"),
        ({"transport": ("sse", "pigeon")}, "transport: 'pigeon' is unknown .* in-process, sse, websocket, openai"),
        ({"transport": ()}, "transport: none is named"),
        ({"transport": ("sse", "sse")}, "transport: one is repeated"),
        ({"url": "http://a"}, "add --transport sse, websocket, openai or browser"),
        (
            {"transport": ("in-process", "sse"), "retries": 1},
            "retries: only supported in-process",
        ),
        ({"transport": ("sse",), "providers": ("replay:x",)}, "use --transport in-process"),
    ],
)
def test_invalid_scenario_is_rejected_with_message(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_scenario(**changes)


def test_strategy_names_are_expanded() -> None:
    assert strategy_names("direct, batch,pace:20") == ("direct", "batch:100ms", "pace:20tps")
    with pytest.raises(UsageError, match="strategy 'fast': unknown"):
        strategy_names("direct,fast")


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -0.1, 2.1, 99])
def test_invalid_temperature_is_rejected(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature: out of range"):
        make_scenario(temperature=temperature)
    assert make_scenario(temperature=0.0).temperature == 0.0


def test_prompts_are_sent_as_written_by_default_and_repeats_are_not_fresh() -> None:
    planned = plan(make_scenario(strategies=("direct",)))
    assert {trial.nonce for trial in planned} == {""} and prompt_messages(planned[0], "run") == planned[
        0
    ].prompt.messages
    assert [trial.fresh for trial in planned] == [trial.repeat == 1 for trial in planned]


def test_strategies_never_share_a_fresh_prompt() -> None:
    planned = plan(make_scenario())
    texts: dict[tuple[str, str], set[str]] = {}
    for trial in planned:
        texts.setdefault((trial.provider, prompt_messages(trial, "run")[0].content), set()).add(trial.strategy)
    assert all(len(strategies) == 1 for strategies in texts.values()) and len(texts) == 2 * 2 * 3
    assert [trial.fresh for trial in planned] == [trial.repeat == 1 for trial in planned]
    verbatim = plan(make_scenario(fresh=False))
    assert {trial.nonce for trial in verbatim} == {""} and sum(trial.fresh for trial in verbatim) == 2 * 3


def test_fresh_run_asks_no_prompt_twice() -> None:
    planned = plan(make_scenario(fresh=True))
    assert all(trial.fresh for trial in planned)
    texts = [prompt_messages(trial, f"run-{trial.number}")[0].content for trial in planned]
    assert len(set(texts)) == len(texts)
    assert all(text.endswith(f"] {t.prompt.text}") for text, t in zip(texts, planned, strict=True))
    assert prompt_messages(planned[0], "run") != prompt_messages(planned[0], "another run")


def test_prompts_with_a_common_opening_are_not_both_fresh() -> None:
    opening = "Read this. " * 200
    shared = (Prompt("x", opening + "Sum it up."), Prompt("y", opening + "Translate it."), Prompt("z", "Hi."))
    planned = plan(Scenario(("a",), ("direct",), shared))
    assert sorted(trial.fresh for trial in planned if trial.prompt.id != "z") == [False, True]
    assert all(trial.fresh for trial in planned if trial.prompt.id == "z")


def test_warm_run_asks_each_request_once_before_and_has_no_fresh_trial() -> None:
    expected = make_scenario(warm=True, strategies=("direct",))
    planned = plan(expected)
    assert not any(trial.fresh for trial in planned)
    warmed = warm_trials(expected, planned)
    assert {(t.provider, t.prompt.id) for t in warmed} == {(p, q.id) for p in "ab" for q in PROMPTS}
    assert len(warmed) == 6 and warm_trials(make_scenario(), planned) == ()
    with pytest.raises(UsageError, match="warm and fresh exclude each other"):
        make_scenario(warm=True, fresh=True)


def cells_of(planned: Sequence[PlannedTrial]) -> set[tuple[object, ...]]:
    return {(t.provider, t.strategy, t.prompt.id, t.repeat) for t in planned}


def test_nonce_stands_before_the_first_message_of_a_conversation() -> None:
    history = (Message("user", "France?"), Message("assistant", "Paris"))
    prompt = Prompt("p", "And Portugal?", system="Answer with one word.", history=history, max_tokens=7)
    scenario = Scenario(("m",), ("direct",), (prompt, *PROMPTS), fresh=True)
    planned = next(trial for trial in plan(scenario) if trial.prompt == prompt)
    system, *rest = prompt_messages(planned, "run")
    assert system.role == "system" and system.content.endswith("] Answer with one word.")
    assert rest == [*history, Message("user", "And Portugal?")]
    assert [scenario.max_tokens_of(each) for each in (prompt, PROMPTS[0])] == [7, 128]


def test_conversations_that_differ_only_in_their_system_prompt_are_both_fresh() -> None:
    twins = (Prompt("a", "Why?", system="Be brief."), Prompt("b", "Why?", system="Be thorough."))
    assert all(trial.fresh for trial in plan(Scenario(("m",), ("direct",), twins)))


@pytest.mark.parametrize("more", [{"repeats": 6}, {"prompts": (*PROMPTS, Prompt("new", "New?"))}])
def test_extended_plan_keeps_earlier_trials_and_appends_new_blocks(more: dict[str, object]) -> None:
    earlier, expected = plan(make_scenario()), make_scenario(**more)
    extended = plan(expected, earlier)
    assert extended[: len(earlier)] == earlier and cells_of(extended) == cells_of(plan(expected))
    assert [trial.number for trial in extended] == list(range(1, expected.trials + 1))
    assert [trial.block for trial in extended[::4]] == list(range(1, expected.trials // 4 + 1))
    assert plan(expected, extended) == extended, "resumed once more"


def test_closed_loop_runs_its_concurrency_for_each_provider() -> None:
    assert make_scenario(concurrency=4).streams == 8 and make_scenario(concurrency=4).level == 4
    assert make_scenario().streams == 1, "one at a time: the providers take turns"


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [("openai", "m", "openai:m"), ("local", None, "local"), ("local", "SmolLM2", "local"), ("x", None, "x")],
)
def test_full_name_joins_provider_and_model(provider: str, model: str | None, name: str) -> None:
    assert full_name(provider, model) == name


def test_too_many_trials_are_rejected_before_planning() -> None:
    with pytest.raises(UsageError, match="at most 1000000"):
        Scenario(("local",), ("direct",), (Prompt("p", "Hi"),), repeats=10**9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrivals": "poisson"}, "arrivals: poisson needs an open loop"),
        ({"concurrency": 10_001}, "concurrency: too many"),
    ],
)
def test_load_that_cannot_be_is_rejected(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Scenario(("sim:a",), ("direct",), (Prompt("p", "Why?"),), **changes)
