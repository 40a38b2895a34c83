"""Ratings on the page: which figures are kept, that text is kept only when the reader agrees, and the rate limit."""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from limits import parse

from guard import GuardConfig
from guard.config import UNLIMITED_BUDGET
from providers import ProviderRegistry
from server.feedback import FILE_NAME, FeedbackStore
from settings import Settings
from tests.unit.ui.ui_fixtures import OPEN_CONFIG, FakeProviders, SlowAdapter, make_chat_service, make_request
from tests.virtual_time import run_on_virtual_time
from ui import strings
from ui.answers import AnswerService
from ui.app import build_page
from ui.chat.feedback import FeedbackHandlers, find_turn
from ui.chat.handlers import ChatHandlers
from ui.history import user_message

QUESTION = "How many <b>sheep</b>?"
Scenario = Callable[[FeedbackHandlers, list[Any]], Awaitable[Any]]


def press(liked: bool | str, index: Any = 1) -> gr.LikeData:
    return gr.LikeData(None, {"index": index, "value": ["made up by the browser"], "liked": liked})


def rate_answer(folder: Path, scenario: Scenario, configuration: GuardConfig = OPEN_CONFIG) -> list[dict[str, Any]]:
    """Answer a question on a page, run the scenario with its history, and return the ratings that were kept."""

    async def main() -> None:
        store = FeedbackStore(folder)
        chat_service = make_chat_service(FakeProviders(SlowAdapter()), configuration, feedback=store)
        answer_service = AnswerService(chat_service, None)
        messages: list[Any] = []
        chat = ChatHandlers(answer_service)
        chat.begin_retry([], make_request())
        asked = chat.ask(QUESTION, [], "local", "", "direct", "", "", "", "", "", True, False, "", "", make_request())
        async with aclosing(asked) as updates:
            async for update in updates:
                messages = [*update[0]]
        await scenario(FeedbackHandlers(answer_service), [user_message(QUESTION), *messages])

    run_on_virtual_time(main())
    file = folder / FILE_NAME
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_rating_has_the_figures_but_no_text(tmp_path: Path) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        words, row = await feedback.rate(history, False, press(True), make_request())
        assert strings.FEEDBACK_KEPT in words and row["visible"] is True

    (rating,) = rate_answer(tmp_path, scenario)
    names = ("rating", "served_by", "strategy", "outcome", "ttft_s", "delivered_chars")
    assert [rating[name] for name in names] == ["up", "local", "direct", "completed", 1.0, len("one two three")]
    assert "question" not in rating and "sheep" not in json.dumps(rating) and "three" not in json.dumps(rating)


def test_text_is_kept_once_the_reader_agrees_and_not_with_a_withdrawn_rating(tmp_path: Path) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        request = make_request()
        await feedback.agree(True, request)
        await feedback.rate(history, False, press(False), request)
        await feedback.agree(False, request)
        await feedback.agree(True, request)
        await feedback.rate(history, True, press(""), request)
        await feedback.agree(True, request)

    without, with_text, withdrawn = rate_answer(tmp_path, scenario)
    assert [one["rating"] for one in (without, with_text, withdrawn)] == ["down", "down", None]
    assert without["id"] == with_text["id"] == withdrawn["id"]
    assert (with_text["question"], with_text["answer"]) == (QUESTION, "one two three")
    assert "question" not in without and "question" not in withdrawn


@pytest.mark.parametrize("index", [-1, 99, [0, 1], None])
def test_thumb_of_no_answer_keeps_nothing(tmp_path: Path, index: Any) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        words, _ = await feedback.rate(history, True, press(True, index), make_request())
        assert strings.FEEDBACK_UNKNOWN in words

    assert rate_answer(tmp_path, scenario) == []


def test_answer_of_another_page_cannot_be_rated(tmp_path: Path) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        words, _ = await feedback.rate(history, True, press(True), make_request("another"))
        assert strings.FEEDBACK_UNKNOWN in words

    assert rate_answer(tmp_path, scenario) == []


def test_ratings_have_a_rate_limit_of_their_own(tmp_path: Path) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        shown = [(await feedback.rate(history, False, press(True), make_request()))[0] for _ in range(3)]
        assert ["more than 2 ratings in a minute" in words for words in shown] == [False, False, True]

    limited = GuardConfig(rate=parse("2/minute"), blocklist=None, output_filter=False, budget=UNLIMITED_BUDGET)
    assert len(rate_answer(tmp_path, scenario, limited)) == 2


def test_lost_rating_is_said_on_the_page(tmp_path: Path) -> None:
    async def scenario(feedback: FeedbackHandlers, history: list[Any]) -> None:
        (tmp_path / FILE_NAME).mkdir()
        words, _ = await feedback.rate(history, False, press(True), make_request())
        (tmp_path / FILE_NAME).rmdir()
        assert strings.FEEDBACK_LOST in words

    assert rate_answer(tmp_path, scenario) == []


def test_thumbs_are_shown_only_where_ratings_are_kept(tmp_path: Path) -> None:
    async def main(folder: Path | None) -> tuple[Any, bool]:
        feedback = FeedbackStore(folder) if folder else None
        chat_service = make_chat_service(ProviderRegistry(Settings()), feedback=feedback)
        page = build_page(AnswerService(chat_service, None))
        chat = next(block for block in page.blocks.values() if getattr(block, "elem_id", None) == "sg-chat")
        has_event = any(event == "like" for fn in page.fns.values() for _, event in fn.targets)
        return getattr(chat, "feedback_options", None), has_event

    assert run_on_virtual_time(main(None)) == (None, False)
    assert run_on_virtual_time(main(tmp_path)) == (("Like", "Dislike"), True)


def test_turn_is_found_from_any_of_its_messages() -> None:
    roles = ["user", "assistant", "assistant", "user", "assistant"]
    history = [{"role": role, "content": str(n)} for n, role in enumerate(roles)]
    assert [[one["content"] for one in find_turn(history, n)] for n in (0, 2, 3, 4)] == [
        ["0", "1", "2"],
        ["0", "1", "2"],
        ["3", "4"],
        ["3", "4"],
    ]
