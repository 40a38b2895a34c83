"""The base class of all load-test users: the choice of request and behaviour, and the metrics reported to Locust.

Besides the whole answer, Locust receives TTFT, every gap, every stall, the duration and the throughput (tokens/s), each
as a request with a separate name. Locust rounds these values; the recorded answers are not rounded.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
import live_charts  # noqa: F401  its listeners add the charts to Locust's page
import load_options
import result_collector
from answer_record import AnswerRecord
from http_exchange import ERRORS, record_error
from locust import LoadTestShape, User, task
from shapes import level_at, users_at

from evaluation.levels import parse_user_levels
from evaluation.prompts.conversation import Conversation
from evaluation.prompts.prompt_file import DEFAULT_PROMPTS, Prompt, read_prompts
from streaming.clock import monotonic, utc_now
from streaming.messages import Message

FAILURE_PAUSE_S = 1.0
"""The pause of a user after a failure, so that a service that rejects requests is not flooded with them."""
SLOW_BUFFER_BYTES = 2_048
SLOW_PAUSE_S = 0.2
LEVEL_DURATION_S = 30
"""How long each level of a sweep lasts if the test has no time of its own."""
_STALL_S, _STALL_MEDIANS = 0.25, 5.0


FAULTY_MODELS = ("sim:cut", "sim:error")


class LoadShape(LoadTestShape):
    """The load shape selected by `--shape`, or the levels of a sweep.

    Without `-t` the full number of users stays until the test is stopped.
    """

    use_common_options = True
    duration_s: int | None = None

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and the spawn rate per second, or None when the test is over."""
        assert self.runner is not None and self.runner.environment.parsed_options is not None
        options = self.runner.environment.parsed_options
        if options.run_time:
            # Clear Locust's own run time: its master would wait for that time again after the shape's end.
            self.duration_s, options.run_time = options.run_time, None
        passed_s = self.get_run_time()
        if self.duration_s and passed_s >= self.duration_s:
            self.duration_s = None  # the next test on Locust's page sets it again, or has none
            return None
        levels = parse_user_levels(options.levels)
        if levels and not self.duration_s:
            self.duration_s = LEVEL_DURATION_S * len(levels)
        share = passed_s / self.duration_s if self.duration_s else 1.0
        if not levels:
            return users_at(options.shape, share, options.num_users or 1), float(options.spawn_rate or 1)
        level = level_at(levels, share)
        result_collector.set_level(self.runner, level)
        return level, float(max(options.spawn_rate or 1, level))


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """One request and the user's behaviour: after `after` pieces it cancels, or drops the connection to resume.

    `slow` users read slowly, out of a small receive buffer.
    """

    prompt: Prompt
    max_tokens: int
    provider: str
    cancel: bool
    reconnect: bool
    slow: bool
    after: int


class StreamUser(User):
    """A user that sends a request, reads the answer, waits, and repeats. Subclasses implement `stream_answer`."""

    abstract = True
    transport: ClassVar[str]
    own_strategy: ClassVar[str] = "direct"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.options = environment.parsed_options
        self.url = urlsplit(self.host or "")
        self.base = self.url.path.rstrip("/")
        self.random = random.Random()

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the request and record the answer. Raises one of `http_exchange.ERRORS` when the connection fails."""
        raise NotImplementedError

    def model_name(self) -> str:
        """Return the name of the provider or model to request."""
        return str(self.options.provider)

    def display_name(self, plan: RequestPlan) -> str:
        """Return the provider's name for the report's tables."""
        return plan.provider

    def wait_time(self) -> float:
        """Return the time in seconds until the next request."""
        return self.random.uniform(*load_options.parse_range_s(self.options.think_s))

    @task
    def ask(self) -> None:
        """Send one request, read its answer and report both; of a conversation one turn after the other."""
        plan: RequestPlan | None = self._draw_plan()
        assert plan is not None
        conversation = Conversation(plan.prompt, plan.prompt.messages, uuid.uuid4().hex) if plan.prompt.turns else None
        while plan is not None:
            answer = self._ask_turn(plan, conversation)
            plan = None if conversation is None else self._next_turn(plan, conversation, answer)

    def _ask_turn(self, plan: RequestPlan, conversation: Conversation | None) -> AnswerRecord:
        result_collector.wait_while_closing()
        check = plan.prompt.check if conversation is None or conversation.is_last_turn else None
        answer = AnswerRecord(
            trial_id=uuid.uuid4().hex,
            transport=self.transport,
            prompt_id=plan.prompt.id,
            keeps_text=check is not None or conversation is not None,
            provider=self.display_name(plan),
            strategy=self.options.strategy or self.own_strategy,
            started_at=utc_now(),
            asked_s=monotonic(),
            ramping=result_collector.state.ramping,
            level=result_collector.state.level,
            real_time=result_collector.state.real_time,
            worker=getattr(self.environment.runner, "worker_index", 0),
        )
        if conversation is not None:
            answer.conversation, answer.turn = conversation.id, conversation.turn
            answer.context_tokens = conversation.context_tokens
        with result_collector.open_answer(self.environment, answer):
            try:
                self.stream_answer(answer, plan)
            except ERRORS as error:
                record_error(answer, monotonic(), error)
            answer.check_text(check)
        self._report_answer(answer)
        if answer.failure_reason is not None:
            gevent.sleep(FAILURE_PAUSE_S)
        return answer

    def _next_turn(self, plan: RequestPlan, conversation: Conversation, answer: AnswerRecord) -> RequestPlan | None:
        """Think, and return the next turn of a conversation; None at its end, and after an incomplete answer."""
        if answer.outcome != "completed":
            return None
        turn = conversation.add_answer(answer.text, answer.conversation_tokens)
        if turn is None:
            return None
        gevent.sleep(self.wait_time() if turn.think_s is None else turn.think_s)
        return replace(plan, prompt=prompt_of_turn(plan.prompt, conversation.messages))

    def headers(self, answer: AnswerRecord) -> dict[str, str]:
        """Return the headers of every request: the answer's id, to match it with a server's log, and the API key."""
        key = {"authorization": f"Bearer {self.options.key}"} if self.options.key else {}
        return {"x-client-request-id": answer.trial_id, **key}

    def body(self, answer: AnswerRecord, plan: RequestPlan) -> dict[str, Any]:
        """Return the request body for the service's SSE and WebSocket transports."""
        messages = message_fields(plan.prompt)
        conversation = {"message": plan.prompt.text} if len(messages) == 1 else {"messages": messages}
        fields = {**conversation, "provider": plan.provider, "strategy": answer.strategy}
        flags = {"resume": plan.reconnect, "ignore_eos": self.options.ignore_eos}
        return {**fields, "max_tokens": plan.max_tokens, **{name: True for name, is_set in flags.items() if is_set}}

    def socket_options(self, plan: RequestPlan) -> dict[str, Any]:
        """Return the arguments for the user's socket: the idle timeout and the receive buffer's size."""
        return {"idle_s": self.options.idle_s, "receive_bytes": SLOW_BUFFER_BYTES if plan.slow else None}

    def _draw_plan(self) -> RequestPlan:
        draw, options = self.random, self.options
        prompt = draw.choice(_load_prompts(options.prompts))
        if options.fresh:
            prompt = prompt.with_nonce(uuid.uuid4().hex[:12])
        max_tokens = options.max_tokens if prompt.max_tokens is None else prompt.max_tokens
        provider = draw.choice(FAULTY_MODELS) if draw.random() < options.fault_rate else self.model_name()
        cancel = draw.random() < options.cancel_rate
        reconnect = not cancel and draw.random() < options.reconnect_rate
        slow = draw.random() < options.slow_rate
        return RequestPlan(
            prompt, max_tokens, provider, cancel, reconnect, slow, draw.randint(1, max(1, max_tokens // 4))
        )

    def _report_answer(self, answer: AnswerRecord) -> None:
        """Report to Locust the answer as a request, and its metrics as further ones, in ms (tokens/s: in tokens)."""
        end_s = answer.events[-1][0] if answer.events else monotonic()
        start_s = answer.sent_s if answer.sent_s is not None else answer.asked_s
        failure = RuntimeError(answer.failure_reason) if answer.failure_reason is not None else None
        self._fire_request("answer", end_s - start_s, answer.chars, failure)
        if failure is not None or answer.first_delta_s is None:
            return
        self._fire_request("TTFT", answer.first_delta_s - start_s)
        if answer.outcome != "cancelled":
            self._fire_request("duration", end_s - start_s)
        texts_s = answer.text_times_s
        gaps_s = [later - earlier for earlier, later in pairwise(texts_s)]
        longest_s = max(_STALL_S, _STALL_MEDIANS * median(gaps_s)) if gaps_s else 0.0
        with result_collector.turns.slices(gaps_s) as sliced_gaps_s:
            for gap_s in sliced_gaps_s:
                self._fire_request("gap", gap_s)
                if gap_s > longest_s:
                    self._fire_request("stall", gap_s)
        if (tokens_per_s := answer.tokens_per_s) is not None:
            self._fire_request("tokens/s", tokens_per_s / 1000)

    def _fire_request(self, name: str, value_s: float, length: int = 0, failure: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type=self.transport,
            name=name,
            response_time=value_s * 1000,
            response_length=length,
            exception=failure,
            context={},
        )


def prompt_of_turn(prompt: Prompt, messages: Sequence[Message]) -> Prompt:
    """Return the prompt of a conversation's turn: the last message, after what was said before."""
    *earlier, last = messages if prompt.system is None else messages[1:]
    return replace(prompt, history=tuple(earlier), text=last.content)


def message_fields(prompt: Prompt) -> list[dict[str, str]]:
    """Return the messages of a prompt as a request has them, with the system prompt first."""
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


@cache
def _load_prompts(path: str) -> tuple[Prompt, ...]:
    return read_prompts(Path(path) if path else DEFAULT_PROMPTS)
