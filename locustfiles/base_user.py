"""What all kinds of users share: which question when, what they do to an answer, and Locust's own figures of it.

Beside the whole answer Locust is told of TTFT, every gap, every stall, the duration and the tokens a second, each under
a name of its own. Locust rounds what it is told; the rows do not.
"""

import json
import random
import uuid
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
import load_options
import result_collector
from answer_record import AnswerRecord
from http_exchange import ERRORS, record_error
from locust import LoadTestShape, User, task
from shapes import users_at

from streaming.clock import monotonic, utc_now

FAILURE_PAUSE_S = 1.0
"""After a failure nobody asks again at once: a service that refuses must not be stormed."""
SLOW_BUFFER_BYTES = 2_048
SLOW_PAUSE_S = 0.2
_STALL_S, _STALL_MEDIANS = 0.25, 5.0
_DEFAULT_PROMPTS = Path(__file__).resolve().parent.parent / "evaluation" / "prompts" / "default.jsonl"


FAULTY_MODELS = ("sim:cut", "sim:error")


class LoadShape(LoadTestShape):
    """The shape that was asked for; without `-t` it is held until the test is stopped, which only `steady` can be."""

    use_common_options = True
    duration_s: int | None = None

    def tick(self) -> tuple[int, float] | None:
        """Give users and how many a second are added or leave; None: it is over."""
        assert self.runner is not None and self.runner.environment.parsed_options is not None
        options = self.runner.environment.parsed_options
        if options.run_time:
            # Taken from Locust, whose master would wait for that time once more after the shape's end.
            self.duration_s, options.run_time = options.run_time, None
        passed_s = self.get_run_time()
        if self.duration_s and passed_s >= self.duration_s:
            self.duration_s = None  # the next test on Locust's page has one of its own, or none
            return None
        share = passed_s / self.duration_s if self.duration_s else 1.0
        return users_at(options.shape, share, options.num_users or 1), float(options.spawn_rate or 1)


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What the user will do: `after` so many pieces it leaves for good (cancel), or drops the line to come back."""

    prompt_id: str
    prompt: str
    provider: str
    cancel: bool
    reconnect: bool
    slow: bool
    after: int


class StreamUser(User):
    """Asks, listens to the end, thinks, asks again. A kind of user says how it listens, in `stream_answer`."""

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
        """Ask, and write into `answer` what comes. Raises what `http_exchange.ERRORS` has for a broken connection."""
        raise NotImplementedError

    def model_name(self) -> str:
        """Give the name of who is to answer."""
        return str(self.options.provider)

    def display_name(self, plan: RequestPlan) -> str:
        """Give the name under which the answer stands in the tables."""
        return plan.provider

    def wait_time(self) -> float:
        """Give the seconds until the next question."""
        return self.random.uniform(*load_options.parse_range_s(self.options.think_s))

    @task
    def ask(self) -> None:
        """Ask once."""
        result_collector.wait_while_closing()
        plan = self._draw_plan()
        answer = AnswerRecord(
            trial_id=uuid.uuid4().hex,
            transport=self.transport,
            prompt_id=plan.prompt_id,
            provider=self.display_name(plan),
            strategy=self.options.strategy or self.own_strategy,
            started_at=utc_now(),
            asked_s=monotonic(),
            ramping=result_collector.state.ramping,
            real_time=result_collector.state.real_time,
            worker=getattr(self.environment.runner, "worker_index", 0),
        )
        with result_collector.open_answer(self.environment, answer):
            try:
                self.stream_answer(answer, plan)
            except ERRORS as error:
                record_error(answer, monotonic(), error)
        self._report_answer(answer)
        if answer.failure_reason is not None:
            gevent.sleep(FAILURE_PAUSE_S)

    def headers(self, answer: AnswerRecord) -> dict[str, str]:
        """Give what every request carries: the answer's id, by which a server's log is paired, and the key."""
        key = {"authorization": f"Bearer {self.options.key}"} if self.options.key else {}
        return {"x-client-request-id": answer.trial_id, **key}

    def body(self, answer: AnswerRecord, plan: RequestPlan) -> dict[str, Any]:
        """Give the question as the service's own wires take it."""
        fields = {"message": plan.prompt, "provider": plan.provider, "strategy": answer.strategy}
        return {**fields, "max_tokens": self.options.max_tokens, **({"resume": True} if plan.reconnect else {})}

    def socket_options(self, plan: RequestPlan) -> dict[str, Any]:
        """Give how the user's socket is made."""
        return {"idle_s": self.options.idle_s, "receive_bytes": SLOW_BUFFER_BYTES if plan.slow else None}

    def _draw_plan(self) -> RequestPlan:
        draw, options = self.random, self.options
        prompt_id, prompt = draw.choice(read_prompts(options.prompts))
        provider = draw.choice(FAULTY_MODELS) if draw.random() < options.fault_rate else self.model_name()
        cancel = draw.random() < options.cancel_rate
        reconnect = not cancel and draw.random() < options.reconnect_rate
        slow = draw.random() < options.slow_rate
        return RequestPlan(
            prompt_id, prompt, provider, cancel, reconnect, slow, draw.randint(1, max(1, options.max_tokens // 4))
        )

    def _report_answer(self, answer: AnswerRecord) -> None:
        """Tell Locust: the answer as a request of its own, and the figures beside it, in ms (tokens/s: tokens)."""
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
        with result_collector.turns.slices(gaps_s) as slowly:
            for gap_s in slowly:
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


@cache
def read_prompts(path: str) -> tuple[tuple[str, str], ...]:
    """Read prompts as an evaluation does: one a line, called after its place, or JSONL with `id` and `prompt`."""
    file = Path(path) if path else _DEFAULT_PROMPTS
    lines = [(number, line.strip()) for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)]
    filled = [(number, line) for number, line in lines if line]
    if file.suffix != ".jsonl":
        return tuple((f"line-{number}", line) for number, line in filled)
    found = [json.loads(line) for _, line in filled]
    return tuple((row["id"], row["prompt"]) for row in found)
