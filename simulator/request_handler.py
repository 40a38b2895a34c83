"""Request handling: selects the wire format, profile, fault and response plan of a request. Performs no I/O.

The fault comes from the header `X-Simulator-Fault`, a model named `fault-NAME` or the command line, in this order. The
profile comes from the model name or the command line. API keys are not checked.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import unquote

from simulator import response_plans
from simulator.faults import Fault, parse_fault
from simulator.http1 import InvalidRequestError, Request
from simulator.response_plans import HttpFraming, ResponsePlan
from simulator.schedules import PROFILES, Profile, PromptCache, input_tokens, make_schedule, seed_for
from simulator.vendor_rules import Rejection, VendorRules, effort_of, error_body, split_vendor
from simulator.wires import anthropic, chat_completions, model_lists, ollama, openai_responses
from simulator.wires.base import EncodingContext, ParsedRequest, Wire
from streaming.errors import UsageError

_JSON_MEDIA_TYPE = "application/json"
_REDIRECT_PREFIX = "/redirected"
_AZURE_DEPLOYMENT_PATH = re.compile(r"/openai/deployments/([^/]{1,200})/chat/completions")
_OPENAI_WIRE = chat_completions.ChatCompletionsWire()
_AZURE_WIRE = chat_completions.ChatCompletionsWire(azure=True)
_RESPONSES = openai_responses.ResponsesWire()
_ANTHROPIC_WIRE = anthropic.MessagesWire()
_OLLAMA_WIRE = ollama.OllamaChatWire()
_SHAPES = VendorRules.load(date.min)
"""The vendors' usage formats and prices, which apply whether or not their rules are enabled."""
_MAX_CACHED_PROMPTS = 10_000
_WIRE_BY_PATH: Mapping[str, Wire] = {
    "/v1/chat/completions": _OPENAI_WIRE,
    "/openai/v1/chat/completions": _AZURE_WIRE,
    "/v1/messages": _ANTHROPIC_WIRE,
    "/v1/responses": _RESPONSES,
    "/openai/v1/responses": _RESPONSES,
    "/api/chat": _OLLAMA_WIRE,
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """The default settings for requests. Numbers other than None override every profile."""

    profile: Profile = PROFILES["steady"]
    fault: Fault | None = None
    seed: int = 0
    ttft_s: float | None = None
    gap_s: float | None = None
    tokens: int | None = None
    thinking_tokens: int | None = None
    effort_tokens: Mapping[str, int] = field(default_factory=dict)
    """The number of hidden thinking tokens by requested effort."""
    rules: VendorRules | None = None
    """The vendors' rules for rejected fields, retired models and prompt caches, or None to disable them."""

    def apply_to(self, profile: Profile) -> Profile:
        """Return the profile with the configured overrides applied."""
        figures = {
            "ttft_s": self.ttft_s,
            "gap_s": self.gap_s,
            "tokens": self.tokens,
            "thinking_tokens": self.thinking_tokens,
        }
        return replace(profile, **{name: value for name, value in figures.items() if value is not None})  # type: ignore[arg-type]  # the names are field names


class PlannedResponse(NamedTuple):
    """A response plan, with the request's fields for the log."""

    plan: ResponsePlan
    facts: dict[str, Any]


class RequestHandler:
    """The handler of all requests. It tracks requests that failed once and prompts in vendors' caches."""

    def __init__(self, choices: Defaults) -> None:
        self._choices = choices
        self._failed_once: set[str] = set()
        self._cached_prompts: set[tuple[str, str, str]] = set()
        self._prompt_cache = PromptCache()

    def reply(self, request: Request, serial: str, forced: Fault | None = None) -> PlannedResponse:
        """Plan the response to a request. `serial` is the number used in its IDs, `forced` a fault that must occur."""
        named, path = split_vendor(request.path.removeprefix(_REDIRECT_PREFIX))
        dialect = _wire_for_path(path, request.headers)
        vendor = named or ("openai" if dialect is _RESPONSES else dialect.name)
        if named is not None and isinstance(dialect, chat_completions.ChatCompletionsWire):
            dialect = replace(dialect, vendor=named, shape=_SHAPES.usage_shape(named))
        envelope = _make_framing(dialect, serial, request.keep_open, request.chunked)
        call = _WireRequest(request, path, dialect, envelope, serial, vendor)
        facts: dict[str, Any] = {"wire": dialect.name, "path": request.path, "streamed": False}
        if (request.method, path) in model_lists.MODEL_LISTS:
            return PlannedResponse(
                response_plans.plan_single(call.envelope, 200, _JSON_MEDIA_TYPE, self._listing(call)), facts
            )
        try:
            chat_request = _parse_request(call)
            if (rejection := self._rejection(call, chat_request)) is not None:
                facts |= {"model": chat_request.model, "refused": rejection.message}
                body = error_body(vendor, rejection) or dialect.error(rejection.status, rejection.message, serial)
                return PlannedResponse(
                    response_plans.plan_single(call.envelope, rejection.status, _JSON_MEDIA_TYPE, body), facts
                )
            return self._plan_chat(call, chat_request, forced or self._choose_fault(call, chat_request))
        except _PathRejectedError as refused:
            return PlannedResponse(call.plan_error(refused.status, str(refused)), facts)
        except UsageError as error:
            return PlannedResponse(call.plan_error(400, str(error)), facts)

    def reject(self, error: InvalidRequestError, serial: str) -> PlannedResponse:
        """Plan the error response to an invalid request, after which the connection closes."""
        body = _OPENAI_WIRE.error(error.status, str(error), serial)
        plan = response_plans.plan_single(
            _make_framing(_OPENAI_WIRE, serial, False, True), error.status, _JSON_MEDIA_TYPE, body
        )
        return PlannedResponse(plan, {"wire": "none", "path": "", "streamed": False})

    def _rejection(self, call: "_WireRequest", chat_request: ParsedRequest) -> Rejection | None:
        rules = self._choices.rules
        if rules is None:
            return None
        version = call.request.headers.get("anthropic-version")
        return rules.check(call.vendor, chat_request.model, call.request.fields(), version)

    def _listing(self, call: "_WireRequest") -> bytes:
        rules, path = self._choices.rules, call.path
        if call.dialect is _ANTHROPIC_WIRE:
            return model_lists.anthropic_models()
        if rules is None or path not in ("/v1/models", "/openai/v1/models"):
            return model_lists.MODEL_LISTS[call.request.method, path]()
        vendor = call.vendor
        known = {name: rules.shutdown_date(vendor, name) for name in rules.listed_models(vendor)}
        return model_lists.openai(known, rules.listed_prices(vendor))

    def _count_cached_tokens(self, call: "_WireRequest", chat_request: ParsedRequest, tokens: int) -> tuple[int, int]:
        """Return the numbers of input tokens read from and written to the vendor's cache, in blocks of 128."""
        rules = self._choices.rules
        if rules is None or not rules.caches(call.vendor, tokens):
            return 0, 0
        key = (
            call.vendor,
            chat_request.model,
            hashlib.sha256(chat_request.prompt.encode("utf-8", "replace")).hexdigest(),
        )
        block = tokens - tokens % 128
        if key in self._cached_prompts:
            return block, 0
        if len(self._cached_prompts) < _MAX_CACHED_PROMPTS:
            self._cached_prompts.add(key)
        return 0, block

    def _plan_chat(self, call: "_WireRequest", chat_request: ParsedRequest, fault: Fault | None) -> PlannedResponse:
        choices = self._choices
        profile = choices.apply_to(PROFILES.get(_strip_latest_tag(chat_request.model), choices.profile))
        profile = self._prompt_cache.look_up(profile, chat_request.prompt)
        effort = effort_of(call.request.fields())
        if effort is not None and effort in choices.effort_tokens:
            profile = replace(profile, thinking_tokens=choices.effort_tokens[effort], hides_thinking=True)
        limit = chat_request.max_tokens
        if limit is not None and not _SHAPES.usage_shape(call.vendor).limits_thinking:
            limit += profile.thinking_tokens
        laid_out = make_schedule(profile, seed_for(choices.seed, chat_request.prompt), tokens=limit)
        tokens = input_tokens(chat_request.prompt)
        cached, written = self._count_cached_tokens(call, chat_request, tokens)
        billed_usd = _SHAPES.bill_usd(tokens - cached, cached, laid_out.output_tokens)
        answer = EncodingContext(chat_request, laid_out, tokens, call.serial, time.time(), cached, written, billed_usd)
        facts = {
            "wire": call.dialect.name,
            "path": call.request.path,
            "streamed": chat_request.streamed,
            "model": chat_request.model,
            "profile": profile.name,
            "seed": laid_out.seed,
            "fault": fault.name if fault else None,
        }
        plan = self._plan_instead(call, chat_request, fault) if fault else None
        if plan is None:
            compose = response_plans.plan_stream if chat_request.streamed else response_plans.plan_body
            plan = compose(answer, call.dialect, call.envelope, fault)
        return PlannedResponse(plan, facts)

    def _plan_instead(self, call: "_WireRequest", chat_request: ParsedRequest, fault: Fault) -> ResponsePlan | None:
        """Plan the response that replaces the answer. Return None if the fault occurs within the answer or is over."""
        if fault.kind.name.endswith("-once") and not self._is_first_time(call.request):
            return None
        if fault.kind.status is not None:
            retry_after = (("retry-after", f"{fault.number:g}"),) if fault.number is not None else ()
            words = fault.kind.words or f"simulated fault {fault.name}"
            return call.plan_error(fault.kind.status, words, *retry_after, code=fault.kind.code)
        return _plan_raw_response(
            call, call.dialect.media_type if chat_request.streamed else _JSON_MEDIA_TYPE, fault.name
        )

    def _is_first_time(self, request: Request) -> bool:
        key = request.headers.get("x-client-request-id") or hashlib.sha256(request.body).hexdigest()
        if key in self._failed_once:
            self._failed_once.remove(key)
            return False
        self._failed_once.add(key)
        return True

    def _choose_fault(self, call: "_WireRequest", chat_request: ParsedRequest) -> Fault | None:
        name = call.request.headers.get("x-simulator-fault") or _fault_from_model(chat_request.model)
        fault = parse_fault(name) if name else self._choices.fault
        if fault is None or not fault.applies_to(chat_request.streamed):
            return None
        if fault.name == "redirect" and call.path != call.request.path:
            return None
        return fault


class _PathRejectedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _WireRequest(NamedTuple):
    """A request with the wire format and vendor of its path. `path` excludes the redirect prefix."""

    request: Request
    path: str
    dialect: Wire
    envelope: HttpFraming
    serial: str
    vendor: str

    def plan_error(self, status: int, message: str, *extra: tuple[str, str], code: str | None = None) -> ResponsePlan:
        body = self.dialect.error(status, message, self.serial, code)
        return response_plans.plan_single(self.envelope, status, _JSON_MEDIA_TYPE, body, *extra)


def _parse_request(call: _WireRequest) -> ParsedRequest:
    if call.path not in _WIRE_BY_PATH and not _AZURE_DEPLOYMENT_PATH.fullmatch(call.path):
        raise _PathRejectedError(404, f"{call.path}: not found")
    if call.request.method != "POST":
        raise _PathRejectedError(405, f"{call.path}: method not allowed (use POST)")
    return call.dialect.parse_request(call.request.fields())


def _plan_raw_response(call: _WireRequest, media_type: str, fault: str) -> ResponsePlan | None:
    """Plan a response that is not in the vendor's wire format, or return None if the fault does not require one."""
    match fault:
        case "redirect":
            location = ("location", _REDIRECT_PREFIX + call.request.target)
            return response_plans.plan_single(call.envelope, 307, "text/plain", b"simulated redirect\n", location)
        case "reset-before-headers":
            return ResponsePlan(iter(()), "reset", 0.0)
        case "no-response":
            return ResponsePlan(iter(()), "hang", 0.0)
        case "empty-200":
            return response_plans.plan_single(call.envelope, 200, media_type, b"")
        case "html-200":
            page = b"<!doctype html><title>Simulated</title><p>A simulated page.\n"
            return response_plans.plan_single(call.envelope, 200, "text/html; charset=utf-8", page)
    return None


def _strip_latest_tag(model: str) -> str:
    return model.removesuffix(":latest")  # Ollama's tools append this tag to a name without one


def _fault_from_model(model: str) -> str:
    return _strip_latest_tag(model).removeprefix("fault-") if model.startswith("fault-") else ""


def _wire_for_path(path: str, headers: Mapping[str, str]) -> Wire:
    """Return the wire format of a path. For an unknown path, return the one that its client most likely uses."""
    if path in _WIRE_BY_PATH:
        return _WIRE_BY_PATH[path]
    if match := _AZURE_DEPLOYMENT_PATH.fullmatch(path):
        return replace(_AZURE_WIRE, deployment=unquote(match[1]))
    if path.startswith("/openai/"):
        return _AZURE_WIRE
    if path.startswith("/api/"):
        return _OLLAMA_WIRE
    return _ANTHROPIC_WIRE if "anthropic-version" in headers else _OPENAI_WIRE


def _make_framing(dialect: Wire, serial: str, keep_open: bool, chunked: bool) -> HttpFraming:
    return HttpFraming(((dialect.id_header, f"req_{serial}"),), chunked, keep_open)
