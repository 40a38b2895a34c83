"""Decides what a request is answered with: which wire, profile and fault, and so which plan. It does no I/O.

A fault is taken from the header `X-Simulator-Fault`, else from a model called `fault-NAME`, else from the command
line; a profile from the model's name, else from the command line. No key is checked: this is no vendor.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import unquote

from simulator import plans
from simulator.faults import Fault, parse
from simulator.http1 import BadRequest, Request
from simulator.plans import Envelope, Plan
from simulator.schedules import PROFILES, Profile, input_tokens, schedule, seed_for
from simulator.vendor_rules import Rejection, VendorRules, effort_of, error_body, split_vendor
from simulator.wires import anthropic, chat_completions, listings, ollama, openai_responses
from simulator.wires.contract import Answer, Asked, Dialect
from streaming.errors import UsageError

_JSON = "application/json"
_REDIRECTED = "/redirected"
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]{1,200})/chat/completions")
_OPENAI = chat_completions.ChatCompletions()
_AZURE = chat_completions.ChatCompletions(azure=True)
_RESPONSES = openai_responses.Responses()
_ANTHROPIC = anthropic.Messages()
_OLLAMA = ollama.Chat()
_SHAPES = VendorRules.load(date.min)
"""How vendors report usage, whether or not their rules are in force."""
_MAX_CACHED_PROMPTS = 10_000
_CHAT: Mapping[str, Dialect] = {
    "/v1/chat/completions": _OPENAI,
    "/openai/v1/chat/completions": _AZURE,
    "/v1/messages": _ANTHROPIC,
    "/v1/responses": _RESPONSES,
    "/openai/v1/responses": _RESPONSES,
    "/api/chat": _OLLAMA,
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What is answered unless a request says otherwise; figures that are not None hold for every profile."""

    profile: Profile = PROFILES["steady"]
    fault: Fault | None = None
    seed: int = 0
    ttft_s: float | None = None
    gap_s: float | None = None
    tokens: int | None = None
    thinking_tokens: int | None = None
    effort_tokens: Mapping[str, int] = field(default_factory=dict)
    """Hidden tokens of thinking by the effort that a request asks for."""
    rules: VendorRules | None = None
    """What vendors refuse, retire and cache; None: nothing."""

    def adjusted(self, profile: Profile) -> Profile:
        """Give the profile with the figures that were asked for."""
        figures = {
            "ttft_s": self.ttft_s,
            "gap_s": self.gap_s,
            "tokens": self.tokens,
            "thinking_tokens": self.thinking_tokens,
        }
        return replace(profile, **{name: value for name, value in figures.items() if value is not None})  # type: ignore[arg-type]  # the names are the fields' own


class Reply(NamedTuple):
    """A plan, and what the log says of the request."""

    plan: Plan
    facts: dict[str, Any]


class Service:
    """Answers requests. It remembers which have met `500-once`, and which prompts a vendor's cache holds."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._failed_once: set[str] = set()
        self._cached_prompts: set[tuple[str, str, str]] = set()

    def reply(self, request: Request, serial: str) -> Reply:
        """Answer a request; `serial` numbers it in ids."""
        named, path = split_vendor(request.path.removeprefix(_REDIRECTED))
        dialect = _dialect(path, request.headers)
        vendor = named or ("openai" if dialect is _RESPONSES else dialect.name)
        if named is not None and isinstance(dialect, chat_completions.ChatCompletions):
            dialect = replace(dialect, vendor=named, shape=_SHAPES.usage_shape(named))
        envelope = _envelope(dialect, serial, request.keep_open, request.chunked)
        call = _Call(request, path, dialect, envelope, serial, vendor)
        facts: dict[str, Any] = {"wire": dialect.name, "path": request.path, "streamed": False}
        if (request.method, path) in listings.LISTINGS:
            return Reply(plans.single(call.envelope, 200, _JSON, self._listing(call)), facts)
        try:
            asked = _asked(call)
            if (rejection := self._rejection(call, asked)) is not None:
                body = error_body(vendor, rejection) or dialect.error(rejection.status, rejection.message, serial)
                return Reply(plans.single(call.envelope, rejection.status, _JSON, body), facts)
            return self._chat(call, asked, self._fault(call, asked))
        except _Refused as refused:
            return Reply(call.error(refused.status, str(refused)), facts)
        except UsageError as error:
            return Reply(call.error(400, str(error)), facts)

    def refuse(self, error: BadRequest, serial: str) -> Reply:
        """Answer what is no request; the connection closes."""
        body = _OPENAI.error(error.status, str(error), serial)
        plan = plans.single(_envelope(_OPENAI, serial, False, True), error.status, _JSON, body)
        return Reply(plan, {"wire": "none", "path": "", "streamed": False})

    def _rejection(self, call: "_Call", asked: Asked) -> Rejection | None:
        rules = self._choices.rules
        if rules is None:
            return None
        version = call.request.headers.get("anthropic-version")
        return rules.check(call.vendor, asked.model, call.request.fields(), version)

    def _listing(self, call: "_Call") -> bytes:
        rules, path = self._choices.rules, call.path
        if call.dialect is _ANTHROPIC:
            return listings.anthropic()
        if rules is None or path not in ("/v1/models", "/openai/v1/models"):
            return listings.LISTINGS[call.request.method, path]()
        vendor = call.vendor
        return listings.openai({name: rules.shutdown_date(vendor, name) for name in rules.listed_models(vendor)})

    def _cached(self, call: "_Call", asked: Asked, tokens: int) -> tuple[int, int]:
        """Return how many input tokens a vendor reads from its cache and writes to it, in blocks of 128."""
        rules = self._choices.rules
        if rules is None or not rules.caches(call.vendor, tokens):
            return 0, 0
        key = (call.vendor, asked.model, hashlib.sha256(asked.prompt.encode("utf-8", "replace")).hexdigest())
        block = tokens - tokens % 128
        if key in self._cached_prompts:
            return block, 0
        if len(self._cached_prompts) < _MAX_CACHED_PROMPTS:
            self._cached_prompts.add(key)
        return 0, block

    def _chat(self, call: "_Call", asked: Asked, fault: Fault | None) -> Reply:
        choices = self._choices
        profile = choices.adjusted(PROFILES.get(_plain(asked.model), choices.profile))
        effort = effort_of(call.request.fields())
        if effort is not None and effort in choices.effort_tokens:
            profile = replace(profile, thinking_tokens=choices.effort_tokens[effort], hides_thinking=True)
        laid_out = schedule(profile, seed_for(choices.seed, asked.prompt), tokens=asked.max_tokens)
        tokens = input_tokens(asked.prompt)
        cached, written = self._cached(call, asked, tokens)
        billed_usd = _SHAPES.bill_usd(tokens - cached, cached, laid_out.output_tokens)
        answer = Answer(asked, laid_out, tokens, call.serial, time.time(), cached, written, billed_usd)
        facts = {
            "wire": call.dialect.name,
            "path": call.request.path,
            "streamed": asked.streamed,
            "model": asked.model,
            "profile": profile.name,
            "seed": laid_out.seed,
            "fault": fault.name if fault else None,
        }
        plan = self._in_place(call, asked, fault) if fault else None
        if plan is None:
            compose = plans.streamed if asked.streamed else plans.whole
            plan = compose(answer, call.dialect, call.envelope, fault)
        return Reply(plan, facts)

    def _in_place(self, call: "_Call", asked: Asked, fault: Fault) -> Plan | None:
        """Plan what comes in place of an answer; None when the fault is one of an answer under way, or is over."""
        if fault.name == "500-once" and not self._first_time(call.request):
            return None
        if fault.kind.status is not None:
            retry_after = (("retry-after", f"{fault.number:g}"),) if fault.number is not None else ()
            return call.error(fault.kind.status, f"simulated fault {fault.name}", *retry_after)
        return _bare(call, call.dialect.media_type if asked.streamed else _JSON, fault.name)

    def _first_time(self, request: Request) -> bool:
        key = request.headers.get("x-client-request-id") or hashlib.sha256(request.body).hexdigest()
        if key in self._failed_once:
            self._failed_once.remove(key)
            return False
        self._failed_once.add(key)
        return True

    def _fault(self, call: "_Call", asked: Asked) -> Fault | None:
        name = call.request.headers.get("x-simulator-fault") or _fault_of(asked.model)
        fault = parse(name) if name else self._choices.fault
        if fault is None or not fault.meets(asked.streamed):
            return None
        if fault.name == "redirect" and call.path != call.request.path:
            return None
        return fault


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Call(NamedTuple):
    """A request with what its path says; `path` is without the mark of a redirect that was followed."""

    request: Request
    path: str
    dialect: Dialect
    envelope: Envelope
    serial: str
    vendor: str

    def error(self, status: int, message: str, *extra: tuple[str, str]) -> Plan:
        body = self.dialect.error(status, message, self.serial)
        return plans.single(self.envelope, status, _JSON, body, *extra)


def _asked(call: _Call) -> Asked:
    if call.path not in _CHAT and not _DEPLOYMENT.fullmatch(call.path):
        raise _Refused(404, f"there is nothing at {call.path}")
    if call.request.method != "POST":
        raise _Refused(405, f"{call.path} takes POST")
    return call.dialect.read(call.request.fields())


def _bare(call: _Call, media_type: str, fault: str) -> Plan | None:
    """Plan what is no answer in the wire's own terms."""
    match fault:
        case "redirect":
            location = ("location", _REDIRECTED + call.request.target)
            return plans.single(call.envelope, 307, "text/plain", b"simulated redirect\n", location)
        case "reset-before-headers":
            return Plan(iter(()), "reset", 0.0)
        case "no-response":
            return Plan(iter(()), "hang", 0.0)
        case "empty-200":
            return plans.single(call.envelope, 200, media_type, b"")
        case "html-200":
            page = b"<!doctype html><title>Simulated</title><p>A simulated page.\n"
            return plans.single(call.envelope, 200, "text/html; charset=utf-8", page)
    return None


def _plain(model: str) -> str:
    return model.removesuffix(":latest")  # which Ollama's tools append to a bare name


def _fault_of(model: str) -> str:
    return _plain(model).removeprefix("fault-") if model.startswith("fault-") else ""


def _dialect(path: str, headers: Mapping[str, str]) -> Dialect:
    """Give the wire of a path; of one that is not served, the wire whose client most likely asked."""
    if path in _CHAT:
        return _CHAT[path]
    if found := _DEPLOYMENT.fullmatch(path):
        return replace(_AZURE, deployment=unquote(found[1]))
    if path.startswith("/openai/"):
        return _AZURE
    if path.startswith("/api/"):
        return _OLLAMA
    return _ANTHROPIC if "anthropic-version" in headers else _OPENAI


def _envelope(dialect: Dialect, serial: str, keep_open: bool, chunked: bool) -> Envelope:
    return Envelope(((dialect.id_header, f"req_{serial}"),), chunked, keep_open)
