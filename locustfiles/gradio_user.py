"""Users that send messages to the page over Gradio's queue, as a browser does, each message in a new session.

Run it directly: `locust -f locustfiles/gradio_user.py -H http://HOST:PORT`. The page's `/config` describes what a
browser does after Enter: the event of the message box, then every event that follows it, in order. The answer is timed
from the first of these requests, because a person waits from there; its pieces are the updates of the chat.
"""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import repository_path  # noqa: F401  importing it is what it is for
from answer_record import AnswerRecord
from base_user import LoadShape, RequestPlan, StreamUser
from http_exchange import HttpExchange, record_error, record_rejection
from result_collector import turns

from streaming.messages import Message
from streaming.sse import Decoder
from ui.markdown.escaping import escape_prose

MESSAGE, CHAT, STAGE = "sg-message", "sg-chat", "sg-stage"
_HTML_TAG = re.compile(r"<[^>]{0,500}>")

__all__ = ["GradioUser", "LoadShape"]
"""Locust takes the users and the load shape from the names in this file."""


class GradioUser(StreamUser):
    """A user that loads the page's configuration once and then sends messages as its message box does."""

    transport = "gradio"

    def on_start(self) -> None:
        """Start without the page's configuration, which the first message loads."""
        self.page: GradioConfig | None = None

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the message and record the answer up to its last update."""
        if self.page is None:
            config, status = self._request(answer, plan, "/config", None)
            if status != 200:
                record_rejection(answer, answer.asked_s, status, config)
                return
            self.page = GradioConfig(json.loads(config))
        page, session = self.page, uuid.uuid4().hex[:11]
        values = page.values(plan, answer.strategy)
        if values[page.chat] and not self._show_earlier_turns(answer, plan, values, session):
            return
        chain = [page.entry]
        for event in chain:
            if not self._run_event(answer, plan, values, event, session):
                return
            chain += page.next_events(event)

    def _show_earlier_turns(
        self, answer: AnswerRecord, plan: RequestPlan, values: dict[int, Any], session: str
    ) -> bool:
        """Run the event that takes over what the chat shows, as after an answer; it is no part of the answer's wait."""
        page = self.page
        assert page is not None
        body = page.body(page.taking_over, values, session)
        data, status = self._request(answer, plan, f"{page.prefix}/run/predict", body, is_timed=False)
        if status != 200:
            record_rejection(answer, answer.asked_s, status, data)
            return False
        page.apply(page.taking_over, values, json.loads(data)["data"])
        return True

    def _run_event(
        self, answer: AnswerRecord, plan: RequestPlan, values: dict[int, Any], event: Mapping[str, Any], session: str
    ) -> bool:
        """Run one event of the page and return whether it succeeded; False also when the user left."""
        page = self.page
        assert page is not None
        body = page.body(event, values, session)
        if not event["queue"]:
            data, status = self._request(answer, plan, f"{page.prefix}/run/predict", body)
            if status != 200:
                record_rejection(answer, answer.asked_s, status, data)
                return False
            page.apply(event, values, json.loads(data)["data"])
            return True
        reply, status = self._request(answer, plan, f"{page.prefix}/queue/join", body)
        if status != 200:
            record_rejection(answer, answer.asked_s, status, reply)
            return False
        return self._read_queue(answer, plan, values, event, session)

    def _read_queue(
        self, answer: AnswerRecord, plan: RequestPlan, values: dict[int, Any], event: Mapping[str, Any], session: str
    ) -> bool:
        page = self.page
        assert page is not None
        is_answer = page.chat in event["outputs"] and answer.outcome == "open"
        chunks: list[tuple[float, bytes]] = []
        left = False
        target = f"{self.base}{page.prefix}/queue/data?session_hash={session}"
        with HttpExchange(self.url, target, None, self.headers(answer), **self.socket_options(plan)) as exchange:
            for read in exchange.iter_chunks_safe():
                chunks.append(read)
                if left := is_answer and plan.cancel and len(chunks) > plan.after:
                    break
        updates = QueueUpdates(answer, event["outputs"].index(page.chat) if is_answer else None)
        decoder = Decoder()
        with turns.slices(chunks) as reads:
            for at_s, part in reads:
                before = len(answer.events)
                for entry in decoder.feed(part):
                    updates.feed(at_s, json.loads(entry.data))
                answer.merged_reads += len(answer.events) > before + 1
        answer.stamp_source = exchange.socket.stamp_source
        if updates.data is None:
            _record_incomplete(answer, exchange, updates.problem, left=left)
            return False
        page.apply(event, values, updates.data)
        if is_answer:
            page.read_outcome(answer, values, exchange.socket.at_s)
        return True

    def _request(
        self,
        answer: AnswerRecord,
        plan: RequestPlan,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        is_timed: bool = True,
    ) -> tuple[bytes, int | None]:
        """Send one request and return the body and the status; an answer's first timed POST sets its `sent_s`."""
        with HttpExchange(
            self.url, f"{self.base}{path}", body, self.headers(answer), **self.socket_options(plan)
        ) as exchange:
            is_first = is_timed and body is not None
            if answer.sent_s is None and is_first:
                exchange.record_timings(answer)
            data = b"".join(part for _, part in exchange.iter_chunks())
            if answer.headers_s is None and is_first:
                answer.headers_s = exchange.socket.at_s
            return data, exchange.status


def _record_incomplete(answer: AnswerRecord, exchange: HttpExchange, problem: str | None, *, left: bool) -> None:
    """Record why an event did not complete: the page failed, the user left, or the connection failed."""
    at_s = exchange.socket.at_s
    if problem is not None:
        answer.on_failure(at_s, "failed", problem)
    elif left:
        answer.mark_cancelled()
    elif exchange.fault is not None:
        record_error(answer, at_s, exchange.fault)
    else:
        answer.on_failure(at_s, "truncated", "stream: ended before its last update")


class GradioConfig:
    """The page's `/config`: the components' values, and the order of the events."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.prefix: str = config.get("api_prefix", "")
        self._components = {component["id"]: component for component in config["components"]}
        self._events = {event["id"]: event for event in config["dependencies"]}
        self._names = {
            component["props"].get("elem_id"): number
            for number, component in self._components.items()
            if component["props"].get("elem_id")
        }
        self.message, self.chat, self.stage = (self._names[name] for name in (MESSAGE, CHAT, STAGE))
        self.entry = next(event for event in self._events.values() if [self.message, "submit"] in event["targets"])
        states = {number for number, component in self._components.items() if component["type"] == "state"}
        self.taking_over = next(
            event
            for event in self._events.values()
            if event["inputs"] == [self.chat] and event["outputs"] and states.issuperset(event["outputs"])
        )
        """Copies the turns that the chat shows to the session's state, from which the next request takes them."""

    def values(self, plan: RequestPlan, strategy: str) -> dict[int, Any]:
        """Return every component's value for a new message, by component id."""
        result = {number: component["props"].get("value") for number, component in self._components.items()}
        prompt = plan.prompt
        provider, model = self._split_provider(plan.provider)
        result |= {self.message: prompt.text, self._names["sg-asked"]: provider, self._names["sg-asked-model"]: model}
        result |= {self._names["sg-asked-strategy"]: strategy, self._names["sg-max-tokens"]: str(plan.max_tokens)}
        *earlier, _ = prompt.messages
        system = [turn.content for turn in earlier if turn.role == "system"]
        result[self.chat] = [_chat_message(turn) for turn in earlier if turn.role != "system"]
        return result | {self._names["sg-system"]: "".join(system)}

    def _split_provider(self, name: str) -> tuple[str, str]:
        """Return the choice of the page's provider box for a full name, and the text of its model box."""
        choices = [value for _, value in self._components[self._names["sg-provider"]]["props"].get("choices") or []]
        service, _, model = name.partition(":")
        of_service = [value for value in choices if value.partition(":")[0] == service]
        return (name, "") if name in choices or not of_service else (of_service[0], model)

    def next_events(self, event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the events that run on the server after `event` has succeeded."""
        return [
            other
            for other in self._events.values()
            if other.get("trigger_after") == event["id"]
            and other["backend_fn"]
            and not other["trigger_only_on_failure"]
        ]

    def body(self, event: Mapping[str, Any], values: Mapping[int, Any], session: str) -> dict[str, Any]:
        """Return the request body of an event."""
        data = [values[number] for number in event["inputs"]]
        fields = {"data": data, "fn_index": event["id"], "session_hash": session}
        return {**fields, "trigger_id": self.message, "event_data": None}

    def apply(self, event: Mapping[str, Any], values: dict[int, Any], data: list[Any]) -> None:
        """Store an event's results in the components; an update without a value leaves the value unchanged."""
        for number, value in zip(event["outputs"], data, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                values[number] = value.get("value", values[number])
            else:
                values[number] = value

    def read_outcome(self, answer: AnswerRecord, values: Mapping[int, Any], at_s: float) -> None:
        """Record the outcome from the stage line, which has the style `good` after success."""
        stage = str(values[self.stage])
        if "sg-good" in stage:
            answer.on_finish(at_s, "stop")
            answer.mark_complete()
        else:
            words = _HTML_TAG.sub(" ", stage)
            answer.on_failure(at_s, "failed", " ".join(words.split()) or "page: reported no outcome")


def _chat_message(turn: Message) -> dict[str, Any]:
    """Return an earlier turn as the page shows it."""
    content = [{"type": "text", "text": escape_prose(turn.content)}]
    return {"role": turn.role, "metadata": None, "content": content, "options": None}


class QueueUpdates:
    """The queue's messages of one event. The text that the output at index `place` gains is recorded as deltas."""

    def __init__(self, answer: AnswerRecord, place: int | None) -> None:
        self._answer, self._place = answer, place
        self._notes: set[int] = set()
        self._first = True
        self.data: list[Any] | None = None
        self.problem: str | None = None

    def feed(self, at_s: float, message: Mapping[str, Any]) -> None:
        """Process one message of the queue."""
        kind = message["msg"]
        output = message.get("output") or {}
        if kind == "process_completed" and message.get("success"):
            self.data = output["data"]
        elif kind in ("process_completed", "unexpected_error"):
            self.problem = str(output.get("error") or message.get("message") or "page: its event failed")
        elif kind == "process_generating" and self._place is not None:
            if not self._first:
                grown = "".join(map(self._added_text, output["data"][self._place]))
                self._answer.on_text(at_s, grown)
            self._first = False

    def _added_text(self, change: list[Any]) -> str:
        """Return the text that a change adds to the answer; not those with a title or an id."""
        operation, path, value = change
        if operation == "add" and len(path) == 1 and isinstance(value, dict):
            marks = value.get("metadata") or {}
            if marks.get("title") or marks.get("id"):
                self._notes.add(path[0])
                return ""
            return "".join(part.get("text", "") for part in value["content"]) if value["role"] == "assistant" else ""
        if operation == "append" and path and path[0] not in self._notes and path[-1] == "text":
            return str(value)
        return ""
