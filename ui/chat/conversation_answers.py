"""The newest answer of each conversation: it outlives its page, and the page that is loaded next goes on with it."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TypeGuard

import gradio as gr

from streaming.clock import Clock
from streaming.events import Event, Notice
from streaming.pipeline import Receipt
from streaming.strategies import DEFAULT_STRATEGY
from streaming.trace import Probe
from ui import strings
from ui.answer_view import AnswerView
from ui.answers import TICK_INTERVAL_S, AnswerService
from ui.form import ChatForm, ValidatedQuestion
from ui.history import HistoryMessage, head_message, user_message
from ui.page_sessions.answer_slot import AnswerSlot, with_own_price
from ui.page_sessions.sessions import PageSession
from ui.page_sessions.update_pacer import UpdatePacer
from ui.types import PageAnswer, PageReader

SLOT = "chat"
RETENTION_S = 300.0
"""How long an answer that has ended is kept for a page that is loaded anew."""
MAX_CONVERSATIONS = 2_000

_CONVERSATION_ID = re.compile(r"[0-9a-f]{32}")


class ConversationAnswer:
    """One answer. It observes its stream, so that its view is complete whether or not a page reads it.

    `spending` is that of the page that asked, and the page that is loaded next continues it.
    """

    def __init__(
        self, question: ChatForm, view: AnswerView, head: HistoryMessage, page_session: PageSession, clock: Clock
    ) -> None:
        self.question, self.view, self.head = question, view, head
        self.spending = page_session.spending
        self.stream: PageAnswer | None = None
        self.reader: PageReader | None = None
        """The first reader of the stream, until a page takes it."""
        self.last_seq = 0
        """The number of the last event that a page has read."""
        self.ended_s: float | None = None
        self.resumptions = 0
        """How often a page has gone on with the answer."""
        self.is_awaited = False
        """Whether an open page shows another conversation, and can come back to this answer."""
        self.validated: ValidatedQuestion | None = None
        self._clock = clock
        self.started = asyncio.Event()
        """Set once the request has been sent or rejected."""
        self._ended = asyncio.Event()

    def on_events(self, events: list[Event], now: float) -> None:
        """Add the events to the view."""
        self.view.feed(events, now)

    def on_end(self, receipt: Receipt) -> None:
        """Add the receipt to the spending, and close the view with it."""
        assert self.validated is not None, "only a valid request has a stream"
        receipt = replace(receipt, reading=with_own_price(receipt.reading, self.validated.price))
        self.view.close(receipt, self._clock(), self.spending.add(receipt, self.validated))
        self._end()

    def reject(self, message: str, retry_after_s: float | None) -> None:
        """Show why the request has no answer."""
        self.view.show_error(message, retry_after_s)
        self._end()

    def _end(self) -> None:
        self.ended_s = self._clock()
        self._ended.set()

    async def wait_end(self) -> None:
        """Wait until the view is closed."""
        await self._ended.wait()

    def refresh(self, now: float) -> None:
        """Update the metrics of the view, if the answer has not ended."""
        if self.stream is not None and self.validated is not None and not self.stream.ended:
            self.view.refresh(with_own_price(self.stream.meter_reading(), self.validated.price), now)

    def asked_messages(self) -> list[HistoryMessage]:
        """Return the conversation up to the message that is answered."""
        return [*self.question.history, user_message(self.question.text)]

    def answer_messages(self) -> list[HistoryMessage]:
        """Return the heading and the messages of the answer so far."""
        return [self.head, *self.view.messages()]


class ConversationAnswers:
    """The newest answers by the id of their conversation.

    The browser makes the id, which cannot be guessed, and keeps it in the tab's own storage: only who knows it can
    read or stop the answer. An answer that no page has read for the service's `grace_s` is stopped.
    """

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service
        self._answers: OrderedDict[str, ConversationAnswer] = OrderedDict()

    def find(self, conversation: str | None) -> ConversationAnswer | None:
        """Return the newest answer of a conversation, if it is under way or has ended lately."""
        self._forget_expired()
        return self._answers.get(conversation or "")

    def forget(self, conversation: str | None) -> None:
        """Forget an answer that the user has removed from the conversation."""
        self._answers.pop(conversation or "", None)

    async def discard(self, conversation: str, page_session: PageSession) -> None:
        """Stop and forget the answer of a conversation that the user has deleted."""
        answer = self.find(conversation)
        self.forget(conversation)
        await page_session.stop_reading(conversation)
        if answer is not None:
            await self.stop(answer)

    async def stop(self, answer: ConversationAnswer) -> None:
        """Stop an answer, and forget it."""
        for conversation in [name for name, known in self._answers.items() if known is answer]:
            self.forget(conversation)
        if answer.stream is not None:
            await answer.stream.cancel()

    async def show(self, conversation: str | None, page_session: PageSession) -> None:
        """Show another conversation on a page; the answer of the one that it leaves goes on."""
        left, slot = page_session.conversation, page_session.slot(SLOT)
        if not _is_conversation_id(conversation) or conversation == left:
            return
        answer = self.find(left)
        page_session.show_conversation(SLOT, conversation)
        await page_session.stop_reading(conversation)
        if left is not None and answer is not None and answer.ended_s is None:
            page_session.read_unseen(left, slot, self._read_unseen(answer, page_session, slot))

    async def _read_unseen(self, answer: ConversationAnswer, page_session: PageSession, slot: AnswerSlot) -> None:
        answer.is_awaited = True
        try:
            async with aclosing(self.follow(answer, page_session, slot, UpdatePacer())) as changes:
                async for _ in changes:
                    pass
            await asyncio.Event().wait()  # until the page shows it again, or is closed
        finally:
            answer.is_awaited = False
            if answer.ended_s is not None:
                answer.ended_s = self._answer_service.clock()

    async def start(self, conversation: str | None, question: ChatForm, request: gr.Request) -> ConversationAnswer:
        """Send the request; return its answer, which has ended already if the request was rejected."""
        service, page_session = self._answer_service, self._answer_service.page_sessions.get(request.session_hash)
        probe = Probe(service.clock)
        head = head_message(service.answer_name(page_session, question), question.strategy or DEFAULT_STRATEGY)
        view = service.new_view(page_session, question, probe=probe)
        answer = ConversationAnswer(question, view, head, page_session, service.clock)
        try:
            await self._open_stream(answer, self._keep(conversation, answer), probe, request)
        except Exception as error:
            answer.reject(*service.explain(error))
        except BaseException:
            if answer.reader is not None:
                await answer.reader.aclose()
            self.forget(conversation)
            answer.reject(strings.ANSWER_CUT, None)
            raise
        finally:
            answer.started.set()
        return answer

    async def _open_stream(
        self, answer: ConversationAnswer, outlives_page: bool, probe: Probe, request: gr.Request
    ) -> None:
        service = self._answer_service
        answer.validated = validated = service.validate(answer.question, request)
        if validated.left_out:
            answer.view.feed([Notice("trimmed", strings.TRIMMED.format(count=validated.left_out))], service.clock())
        answer.stream = stream = await service.start_answer(SLOT, validated, request, probe=probe, observer=answer)
        answer.reader = await service.source.buffer_answer(stream.id, service.grace_s if outlives_page else 0.0)

    async def follow(
        self,
        answer: ConversationAnswer,
        page_session: PageSession,
        slot: AnswerSlot | None = None,
        pacer: UpdatePacer | None = None,
    ) -> AsyncGenerator[None, None]:
        """Yield after every change of the view but the last, at the pace of the page; return when the answer has ended.

        The page continues the spending of the page that asked, and can stop the answer.
        """
        slot, pacer = slot or page_session.slot(SLOT), pacer or page_session.pacer
        await answer.started.wait()
        page_session.spending = answer.spending
        if answer.stream is not None and answer.validated is not None:
            await slot.begin(answer.stream, answer.validated.price, answer.wait_end)
        reader, answer.reader = answer.reader or await self._resume_reader(answer), None
        if reader is not None:
            async with aclosing(reader), aclosing(self._read(answer, reader, page_session, slot, pacer)) as changes:
                async for _ in changes:
                    yield
        await answer.wait_end()

    async def _resume_reader(self, answer: ConversationAnswer) -> PageReader | None:
        stream = answer.stream
        if stream is None or answer.ended_s is not None:
            return None
        try:
            return await self._answer_service.source.resume_reader(stream.id, stream.owner or "", answer.last_seq)
        except LookupError:  # it is not buffered, and ends with the page that reads it
            return None

    async def _read(
        self,
        answer: ConversationAnswer,
        reader: PageReader,
        page_session: PageSession,
        slot: AnswerSlot,
        pacer: UpdatePacer,
    ) -> AsyncGenerator[None, None]:
        clock, due_s = self._answer_service.clock, None
        budget_usd = answer.validated.budget_usd if answer.validated else None
        yield
        while not reader.ended:
            wait_s = TICK_INTERVAL_S if due_s is None else min(TICK_INTERVAL_S, max(0.0, due_s - clock()))
            for seq, _, _ in await reader.next_batch(wait_s):
                answer.last_seq = max(answer.last_seq, seq)
            answer.refresh(clock())
            if page_session.is_over(budget_usd) and not reader.ended:
                answer.view.feed([Notice("budget", strings.BUDGET_REACHED)], clock())
                await slot.stop()
            due_s = pacer.reserve(clock()) if due_s is None else due_s
            if clock() >= due_s and not answer.view.ended:
                due_s = None
                yield

    def _keep(self, conversation: str | None, answer: ConversationAnswer) -> bool:
        """Keep the newest answer of a conversation; return False for one that no page can come back to."""
        if not _is_conversation_id(conversation):
            return False
        self._answers[conversation] = answer
        self._answers.move_to_end(conversation)
        self._forget_expired()
        return True

    def _forget_expired(self) -> None:
        now = self._answer_service.clock()
        for conversation, answer in list(self._answers.items()):
            if answer.ended_s is not None and not answer.is_awaited and now - answer.ended_s > RETENTION_S:
                del self._answers[conversation]
        while len(self._answers) > MAX_CONVERSATIONS:
            self._answers.popitem(last=False)


def _is_conversation_id(value: str | None) -> TypeGuard[str]:
    return _CONVERSATION_ID.fullmatch(value or "") is not None
