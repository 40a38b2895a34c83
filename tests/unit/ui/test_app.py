"""Tests of the page's Gradio configuration: private events and limits."""

from typing import Any

import gradio as gr
import pytest

from providers import ProviderRegistry
from settings import Settings
from tests.unit.ui.ui_fixtures import make_answer_service
from tests.virtual_time import run_on_virtual_time
from ui.app import CONTENT_SECURITY_POLICY, QUEUE_SIZE, build_page
from ui.components import CONCURRENCY_LIMIT
from ui.results.run_list import SAMPLE


@pytest.fixture(scope="module")
def page_config() -> Any:
    async def main() -> Any:
        return build_page(
            make_answer_service(ProviderRegistry(Settings()), with_keys=lambda keys: ProviderRegistry(Settings(keys)))
        )

    return run_on_virtual_time(main())


def page_functions(page: Any) -> list[Any]:
    return list(page.fns.values())


def test_events_with_keys_or_conversations_are_not_in_public_api(page_config: Any) -> None:
    keys = [block for block in page_config.blocks.values() if getattr(block, "type", "") == "password"]
    assert keys
    for function in page_functions(page_config):
        if any(block in keys for block in (*function.inputs, *function.outputs)):
            assert function.api_visibility == "private"
    assert not [f.api_name for f in page_functions(page_config) if f.api_visibility == "public"]


def test_streaming_events_have_concurrency_limits_and_short_queue(page_config: Any) -> None:
    streaming = [f for f in page_functions(page_config) if f.types_generator]
    assert len(streaming) >= 6, "the chat, four columns, the pipeline"
    assert {f.concurrency_limit for f in streaming} <= {CONCURRENCY_LIMIT, "default"}
    queue = page_config._queue  # noqa: SLF001 - Gradio has no public way to read the queue's settings
    assert (queue.default_concurrency_limit, queue.max_size) == (CONCURRENCY_LIMIT, QUEUE_SIZE)
    assert page_config.api_open is False


def test_content_security_policy_allows_no_other_origin() -> None:
    allowed = {word for rule in CONTENT_SECURITY_POLICY.split("; ") for word in rule.split()[1:]}
    assert allowed <= {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "blob:", "data:"}
    script = next(rule for rule in CONTENT_SECURITY_POLICY.split("; ") if rule.startswith("script-src"))
    assert "data:" not in script


def test_sample_run_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 400_000


def test_stale_update_is_discarded_from_all_cleared_outputs(page_config: Any) -> None:
    emptied = [f.outputs for f in page_functions(page_config) if f.name == "clear"]
    settled = [f.outputs for f in page_functions(page_config) if f.name == "discard_stale_update"]
    assert len(emptied) == 1 and len(settled) >= 2
    assert emptied[0][-1].elem_id == "sg-undo-clear"
    assert all(outputs == emptied[0] for outputs in settled)


def test_event_has_at_most_one_listener_that_defers_calls(page_config: Any) -> None:
    """Gradio repeats an event, and with it all its listeners, for a call that was deferred: two would never end."""
    deferring: dict[tuple[int, str], list[str]] = {}
    for function in page_functions(page_config):
        if function.fn is not None and function.trigger_mode == "always_last":
            for target in function.targets:
                deferring.setdefault(target, []).append(function.name)
    assert {target: names for target, names in deferring.items() if len(names) > 1} == {}


def test_progress_is_shown_only_on_report(page_config: Any) -> None:
    component_types = {type(part) for f in page_functions(page_config) for part in f.show_progress_on}
    assert component_types == {gr.Markdown}, "the report of a run that is read"


def test_provider_picker_is_no_event_input(page_config: Any) -> None:
    picker = next(block for block in page_config.blocks.values() if block.elem_id == "sg-provider")
    assert not [f for f in page_functions(page_config) if f.fn is not None and picker in f.inputs]
