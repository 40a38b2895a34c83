"""Think tags that are split anywhere, and the stages that a reader sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta
from streaming.thinking import StageTracker, ThinkTagParser, waiting_label


def split_thinking(pieces: list[str]) -> tuple[str, str]:
    tags = ThinkTagParser()
    result = [delta for piece in pieces for delta in tags.feed(piece)] + tags.flush()
    assert all(delta.text for delta in result)
    return (
        "".join(d.text for d in result if isinstance(d, ThinkingDelta)),
        "".join(d.text for d in result if isinstance(d, TextDelta)),
    )


CASES = [
    ("plain answer", "", "plain answer"),
    ("<think>why</think>because", "why", "because"),
    ("\n<think>\nwhy\n</think>\n\nbecause", "\nwhy\n", "because"),
    ("<think></think>x", "", "x"),
    ("<think>a < b </thin k></think>c", "a < b </thin k>", "c"),
    ("text first <think>no</think>", "", "text first <think>no</think>"),
    ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ("<think>never closed", "never closed", ""),
    ("<thin", "", "<thin"),
    ("<thinker>x", "", "<thinker>x"),
    ("  \n", "", "  \n"),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "thought", "output"), CASES)
def test_think_tags_split_whole_and_per_character(text: str, thought: str, output: str) -> None:
    assert split_thinking([text]) == (thought, output)
    assert split_thinking(list(text)) == (thought, output)


@given(st.sampled_from(CASES), st.data())
def test_think_tags_any_split_returns_same_result(case: tuple[str, str, str], data: st.DataObject) -> None:
    text, thought, output = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert split_thinking([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == (thought, output)


def test_text_without_think_tag_is_not_held() -> None:
    tags = ThinkTagParser()
    assert tags.feed("Hello") == [TextDelta("Hello")]
    assert tags.feed(" <") == [TextDelta(" <")]


def test_stages_follow_complete_answer() -> None:
    stages = StageTracker(0.0)
    seen = [(0.0, "connecting")]
    events: list[tuple[float, Event]] = [
        (0.1, Notice("connected", "")),
        (0.4, Notice("retry", "")),
        (1.4, Notice("connected", "")),
        (2.0, ThinkingDelta("a")),
        (2.5, ThinkingDelta("b")),
        (3.0, TextDelta("c")),
        (3.5, ThinkingDelta("d")),
        (4.0, Finish("stop")),
    ]
    for at_s, event in events:
        if stages.feed(event, at_s):
            seen.append((stages.since_s, stages.stage))
    assert seen == [
        (0.0, "connecting"),
        (0.1, "waiting"),
        (0.4, "retrying"),
        (1.4, "waiting"),
        (2.0, "thinking"),
        (3.0, "generating"),
        (4.0, "done"),
    ]
    assert not stages.stop(5.0)


def test_stages_reflect_failure_and_stop() -> None:
    failed = StageTracker(0.0)
    failed.feed(Failed("network", "lost"), 1.0)
    assert failed.stage == "failed"
    stopped = StageTracker(0.0)
    assert stopped.stop(1.0)
    assert stopped.stage == "stopped"


@pytest.mark.parametrize(
    ("waited_s", "words"),
    [
        (0.0, "Thinking…"),
        (0.99, "Thinking…"),
        (1.0, "Analyzing…"),
        (2.5, "Generating response…"),
        (1e9, "Generating response…"),
    ],
)
def test_waiting_label_changes_over_time(waited_s: float, words: str) -> None:
    assert waiting_label(waited_s) == words
