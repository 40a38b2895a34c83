"""The order of trials in a run, and reading of prompts files."""

from collections import Counter
from pathlib import Path

import pytest

from evaluation.scenario import DEFAULT_PROMPTS, Prompt, Scenario, full_name, plan, read_prompts, strategy_names
from streaming.errors import UsageError

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
        ({"transport": ("sse", "pigeon")}, "transport: 'pigeon' is unknown .* in-process, sse, websocket, openai"),
        ({"transport": ()}, "transport: none is named"),
        ({"transport": ("sse", "sse")}, "transport: one is repeated"),
        ({"url": "http://a"}, "add --transport sse, websocket or openai"),
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


def test_plain_text_prompts_are_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("First?\n\n  Third?  \n", encoding="utf-8")
    assert read_prompts(file) == (Prompt("line-1", "First?"), Prompt("line-3", "Third?"))
    assert read_prompts(file, 1) == (Prompt("line-1", "First?"),)


def test_jsonl_prompts_keep_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"id": "x", "prompt": "Why?"}\n{"id": "y", "prompt": "How?", "more": 1}\n', encoding="utf-8")
    assert read_prompts(file) == (Prompt("x", "Why?"), Prompt("y", "How?"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "x", "prompt": "Why?"}\nWhat?\n', "line 2: not JSON"),
        ('{"id": "x", "prompt": "Why?"}\n{"id": "x", "prompt": "How?"}\n', "line 2: the id 'x' is used already"),
        ('{"id": "x"}\n', "line 1: id or prompt is missing"),
        ('{"id": 5, "prompt": "Why?"}\n', "line 1: id or prompt is missing"),
        ("[]\n", "line 1: id or prompt is missing"),
        ("\n  \n", "has no prompts"),
    ],
)
def test_invalid_prompts_file_is_reported_with_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        read_prompts(file)


def test_missing_prompts_file_or_too_large_count_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(UsageError, match=r"prompt-count: out of range \(use 1 to 10"):
        read_prompts(DEFAULT_PROMPTS, 11)


def test_default_prompts_are_ten_distinct_prompts() -> None:
    prompts = read_prompts(DEFAULT_PROMPTS)
    assert len(prompts) == 10 and len({p.text for p in prompts}) == 10


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -0.1])
def test_invalid_temperature_is_rejected(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature: not a temperature"):
        make_scenario(temperature=temperature)
    assert make_scenario(temperature=0.0).temperature == 0.0


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [("openai", "m", "openai:m"), ("local", None, "local"), ("local", "SmolLM2", "local"), ("x", None, "x")],
)
def test_full_name_joins_provider_and_model(provider: str, model: str | None, name: str) -> None:
    assert full_name(provider, model) == name


def test_too_many_trials_are_rejected_before_planning() -> None:
    with pytest.raises(UsageError, match="at most 1000000"):
        Scenario(("local",), ("direct",), (Prompt("p", "Hi"),), repeats=10**9)
