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
import load_reports
from answers import Answer
from http_exchange import ERRORS, broke
from locust import LoadTestShape, User, task
from shapes import users_at

from streaming.clock import monotonic, utc_now

PAUSE_S = 1.0
"""After a failure nobody asks again at once: a service that refuses must not be stormed."""
SLOW_BUFFER_BYTES = 2_048
SLOW_PAUSE_S = 0.2
_STALL_S, _STALL_MEDIANS = 0.25, 5.0
_DEFAULT_PROMPTS = Path(__file__).resolve().parent.parent / "evaluation" / "prompts" / "default.jsonl"


FAULTY = ("sim:cut", "sim:error")


class Shape(LoadTestShape):
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
class Plan:
    """What the user will do: `after` so many pieces it leaves for good (cancel), or drops the line to come back."""

    prompt_id: str
    prompt: str
    provider: str
    cancel: bool
    reconnect: bool
    slow: bool
    after: int


class StreamUser(User):
    """Asks, listens to the end, thinks, asks again. A kind of user says how it listens, in `hear`."""

    abstract = True
    transport: ClassVar[str]
    own_strategy: ClassVar[str] = "direct"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.options = environment.parsed_options
        self.url = urlsplit(self.host or "")
        self.base = self.url.path.rstrip("/")
        self.random = random.Random()

    def hear(self, answer: Answer, plan: Plan) -> None:
        """Ask, and write into `answer` what comes. Raises what `http_exchange.ERRORS` has for a broken connection."""
        raise NotImplementedError

    def asked_model(self) -> str:
        """Give the name of who is to answer."""
        return str(self.options.provider)

    def named(self, plan: Plan) -> str:
        """Give the name under which the answer stands in the tables."""
        return plan.provider

    def wait_time(self) -> float:
        """Give the seconds until the next question."""
        return self.random.uniform(*load_options.range_s(self.options.think_s))

    @task
    def ask(self) -> None:
        """Ask once."""
        load_reports.wait_while_closing()
        plan = self._plan()
        answer = Answer(
            trial_id=uuid.uuid4().hex,
            transport=self.transport,
            prompt_id=plan.prompt_id,
            provider=self.named(plan),
            strategy=self.options.strategy or self.own_strategy,
            started_at=utc_now(),
            asked_s=monotonic(),
            ramping=load_reports.state.ramping,
            real_time=load_reports.state.real_time,
            worker=getattr(self.environment.runner, "worker_index", 0),
        )
        with load_reports.under_way(self.environment, answer):
            try:
                self.hear(answer, plan)
            except ERRORS as error:
                broke(answer, monotonic(), error)
        self._tell(answer)
        if answer.reason is not None:
            gevent.sleep(PAUSE_S)

    def headers(self, answer: Answer) -> dict[str, str]:
        """Give what every request carries: the answer's id, by which a server's log is paired, and the key."""
        key = {"authorization": f"Bearer {self.options.key}"} if self.options.key else {}
        return {"x-client-request-id": answer.trial_id, **key}

    def body(self, answer: Answer, plan: Plan) -> dict[str, Any]:
        """Give the question as the service's own wires take it."""
        fields = {"message": plan.prompt, "provider": plan.provider, "strategy": answer.strategy}
        return {**fields, "max_tokens": self.options.max_tokens, **({"resume": True} if plan.reconnect else {})}

    def socket_options(self, plan: Plan) -> dict[str, Any]:
        """Give how the user's socket is made."""
        return {"idle_s": self.options.idle_s, "receive_bytes": SLOW_BUFFER_BYTES if plan.slow else None}

    def _plan(self) -> Plan:
        draw, options = self.random, self.options
        prompt_id, prompt = draw.choice(prompts(options.prompts))
        provider = draw.choice(FAULTY) if draw.random() < options.fault_rate else self.asked_model()
        cancel = draw.random() < options.cancel_rate
        reconnect = not cancel and draw.random() < options.reconnect_rate
        slow = draw.random() < options.slow_rate
        return Plan(
            prompt_id, prompt, provider, cancel, reconnect, slow, draw.randint(1, max(1, options.max_tokens // 4))
        )

    def _tell(self, answer: Answer) -> None:
        """Tell Locust: the answer as a request of its own, and the figures beside it, in ms (tokens/s: tokens)."""
        end_s = answer.events[-1][0] if answer.events else monotonic()
        start_s = answer.sent_s if answer.sent_s is not None else answer.asked_s
        failure = RuntimeError(answer.reason) if answer.reason is not None else None
        self._fire("answer", end_s - start_s, answer.chars, failure)
        if failure is not None or answer.first_s is None:
            return
        self._fire("TTFT", answer.first_s - start_s)
        if answer.outcome != "cancelled":
            self._fire("duration", end_s - start_s)
        texts_s = answer.texts_s
        gaps_s = [later - earlier for earlier, later in pairwise(texts_s)]
        longest_s = max(_STALL_S, _STALL_MEDIANS * median(gaps_s)) if gaps_s else 0.0
        with load_reports.turns.sliced(gaps_s) as slowly:
            for gap_s in slowly:
                self._fire("gap", gap_s)
                if gap_s > longest_s:
                    self._fire("stall", gap_s)
        if (tokens_per_s := answer.tokens_per_s) is not None:
            self._fire("tokens/s", tokens_per_s / 1000)

    def _fire(self, name: str, value_s: float, length: int = 0, failure: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type=self.transport,
            name=name,
            response_time=value_s * 1000,
            response_length=length,
            exception=failure,
            context={},
        )


@cache
def prompts(path: str) -> tuple[tuple[str, str], ...]:
    """Read prompts as an evaluation does: one a line, called after its place, or JSONL with `id` and `prompt`."""
    file = Path(path) if path else _DEFAULT_PROMPTS
    lines = [(number, line.strip()) for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)]
    filled = [(number, line) for number, line in lines if line]
    if file.suffix != ".jsonl":
        return tuple((f"line-{number}", line) for number, line in filled)
    found = [json.loads(line) for _, line in filled]
    return tuple((row["id"], row["prompt"]) for row in found)
