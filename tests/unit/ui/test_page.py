"""The page as Gradio is told of it: what is private, what is limited, what is kept nowhere."""

from typing import Any

import gradio as gr
import pytest

from providers import Providers
from settings import Settings
from tests.virtual_time import clock, run_virtual
from ui.desk import Desk
from ui.layout import ANSWERS_AT_ONCE
from ui.page import POLICY, QUEUE_SIZE, build
from ui.results import PLOTS, SAMPLE, Results


@pytest.fixture(scope="module")
def config() -> Any:
    async def main() -> Any:
        return build(Desk(Providers(Settings()), clock(), None, lambda keys: Providers(Settings(keys))))

    return run_virtual(main())


def functions(page: Any) -> list[Any]:
    return list(page.fns.values())


def test_no_event_that_sees_a_key_or_a_conversation_has_a_name_in_an_api(config: Any) -> None:
    keys = {block._id for block in config.blocks.values() if getattr(block, "type", "") == "password"}
    assert keys
    for function in functions(config):
        if keys & {block._id for block in (*function.inputs, *function.outputs)}:
            assert function.api_visibility == "private"
    assert not [f.api_name for f in functions(config) if f.api_visibility == "public"]


def test_what_answers_has_a_limit_of_its_own_and_the_queue_is_short(config: Any) -> None:
    streaming = [f for f in functions(config) if f.types_generator]
    assert len(streaming) >= 6, "the chat, four columns, the pipeline"
    assert {f.concurrency_limit for f in streaming} <= {ANSWERS_AT_ONCE, "default"}
    assert config._queue.default_concurrency_limit == ANSWERS_AT_ONCE
    assert config._queue.max_size == QUEUE_SIZE
    assert config.api_open is False


def test_nothing_may_be_loaded_from_elsewhere() -> None:
    allowed = {word for rule in POLICY.split("; ") for word in rule.split()[1:]}
    assert allowed <= {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "blob:", "data:"}
    script = next(rule for rule in POLICY.split("; ") if rule.startswith("script-src"))
    assert "data:" not in script


def test_the_sample_run_is_shown_with_its_plots_and_provenance() -> None:
    results = Results()
    assert ("sample run", "") in results.choices()
    report, wrong, *rest = results.show("")
    boxes, plots, captions = (rest[i * PLOTS : (i + 1) * PLOTS] for i in range(3))
    assert wrong == "" and "## Provenance" in report and "sim:steady (simulated)" in report
    shown = sum(box["visible"] for box in boxes)
    assert shown >= 4
    assert [plot is not None for plot in plots] == [bool(caption) for caption in captions]
    assert sum(plot is not None for plot in plots) == shown


@pytest.mark.parametrize("name", ["../docs/sample-run", "/etc", "nothing", None])
def test_only_runs_of_the_list_are_read(name: str | None) -> None:
    report, wrong, *_ = Results().show(name)
    assert report == "" and "There is no such run" in wrong


def test_a_run_that_cannot_be_read_says_so(tmp_path: Any) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    report, wrong, *_ = Results(tmp_path).show("broken")
    assert report == "" and 'role="alert"' in wrong


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 300_000


def test_what_came_too_late_goes_from_all_that_clearing_empties(config: Any) -> None:
    emptied = [f.outputs for f in functions(config) if f.name == "forget"]
    settled = [f.outputs for f in functions(config) if f.name == "settle"]
    assert len(emptied) == 1 and len(settled) >= 2
    assert all(outputs == emptied[0] for outputs in settled)


def test_only_what_shows_that_an_event_runs_is_told_of_it(config: Any) -> None:
    told = {type(part) for f in functions(config) for part in f.show_progress_on}
    assert told == {gr.Chatbot, gr.Markdown}, "chats, and the report of a run that is read"


def test_the_chat_is_asked_without_the_list_of_all_providers(config: Any) -> None:
    picker = next(block for block in config.blocks.values() if block.elem_id == "sg-provider")
    assert not [f for f in functions(config) if f.fn is not None and picker in f.inputs]
