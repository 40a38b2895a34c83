"""Ratings of answers by their readers: a thumb, with the answer's figures, and with its text if the reader agrees."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from guard import RejectionError
from streaming.clock import utc_now
from ui import html, strings
from ui.answers import AnswerService
from ui.chat.export import remove_keys
from ui.history import HistoryMessage, head_text, message_text, message_title
from ui.page_sessions.sessions import PageSession

THUMBS = ("Like", "Dislike")
"""The options that Gradio draws as thumbs."""
MAX_TEXT_CHARS = 20_000
"""Characters of a question, and of an answer, that are kept with a rating."""
RECEIPT_PREFIX = "receipt-"

FeedbackUpdate = tuple[str, Any]
"""One update: the words about the rating, and the row that holds them."""

log = logging.getLogger(__name__)


class FeedbackHandlers:
    """Event handlers of the thumbs. Ratings of one answer have one id, and the last of them counts."""

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service
        self._last: WeakKeyDictionary[PageSession, tuple[dict[str, Any], dict[str, str]]] = WeakKeyDictionary()
        """The last rating of each page without its text, and the text."""

    async def rate(self, history: list[Any], with_text: bool, data: gr.LikeData, request: gr.Request) -> FeedbackUpdate:
        """Keep the rating of the answer that a thumb is part of."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        turn = find_turn(history, data.index)
        name = next((name for one in turn if (name := _receipt_name(one)) is not None), None)
        facts = page_session.spending.receipt_facts(name) if name is not None else None
        if facts is None or name is None:
            return _show(html.unchecked_badge(strings.FEEDBACK_UNKNOWN))
        # A thumb that is pressed again is withdrawn, and comes as an empty text.
        rating = {"True": "up", "False": "down"}.get(str(data.liked))
        entry = {"rating": rating, "id": _answer_id(request.session_hash, name), **to_figures(facts)}
        text = read_text(turn, [*page_session.own_keys.values()])
        self._last[page_session] = entry, text
        return await self._keep(entry, text if with_text and rating is not None else {}, request)

    async def agree(self, with_text: bool, request: gr.Request) -> FeedbackUpdate:
        """Keep the last rating again with its text, when the reader agrees to that after rating."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        entry, text = self._last.get(page_session, ({"rating": None}, {}))
        if not with_text or entry["rating"] is None:
            return gr.skip(), gr.skip()
        return await self._keep(entry, text, request)

    async def _keep(self, entry: Mapping[str, Any], text: Mapping[str, str], request: gr.Request) -> FeedbackUpdate:
        try:
            await self._answer_service.keep_feedback({"at": utc_now(), **entry, **text}, request)
        except RejectionError as rejection:
            return _show(html.error_badge(self._answer_service.explain(rejection)[0]))
        except OSError as error:
            log.warning("feedback: not written (%s)", error)
            return _show(html.error_badge(strings.FEEDBACK_LOST))
        if entry["rating"] is None:
            return _show(html.unchecked_badge(strings.FEEDBACK_WITHDRAWN))
        return _show(html.success_badge(strings.FEEDBACK_WITH_TEXT if text else strings.FEEDBACK_KEPT))


def find_turn(history: Sequence[HistoryMessage], index: object) -> Sequence[HistoryMessage]:
    """Return the user's message and the answer to which the message at `index` belongs; empty for no such message."""
    if not isinstance(index, int) or not 0 <= index < len(history):
        return ()
    users = [place for place, message in enumerate(history) if message["role"] == "user"]
    start = max((place for place in users if place <= index), default=0)
    end = min((place for place in users if place > index), default=len(history))
    return history[start:end]


def to_figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a receipt without the words of an error, in which a provider may repeat a prompt."""
    error = facts.get("error")
    return {**facts, "error": None if error is None else error["kind"]}


def read_text(turn: Sequence[HistoryMessage], keys: Sequence[str]) -> dict[str, str]:
    """Return question and answer of a turn, without thinking and receipt, and without the reader's API keys."""
    spoken = [one for one in turn if message_title(one) is None and head_text(one) is None]
    texts = {
        role: "\n\n".join(message_text(one) for one in spoken if one["role"] == role) for role in ("user", "assistant")
    }
    question, answer = (remove_keys(keys, texts[role])[:MAX_TEXT_CHARS] for role in ("user", "assistant"))
    return {"question": question, "answer": answer}


def _receipt_name(message: HistoryMessage) -> str | None:
    name = str((message.get("metadata") or {}).get("id") or "")
    return name if name.startswith(RECEIPT_PREFIX) else None


def _answer_id(session_hash: str | None, receipt: str) -> str:
    """Return an id of an answer that does not name its page, with whose session hash anybody could act as it."""
    return hashlib.sha256(f"{session_hash}/{receipt}".encode()).hexdigest()[:16]


def _show(words: str) -> FeedbackUpdate:
    return words, gr.update(visible=True)
