"""Fits a request to the model that it goes to: what the model does not take is left out, and said.

By the facts first. A service that refuses a setting all the same (400 or 422) is asked again without it, and the
refusal is remembered for as long as the adapter lives, by model. A limit on the answer is never left out: it bounds
what the answer costs. Where its field is refused, the other name of the field is tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from providers.models.facts import EffortField, Facts, ModelFacts, Setting
from providers.models.setting_rejections import FieldRefusal
from streaming.clock import utc_now
from streaming.events import Notice
from streaming.messages import ChatRequest

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
MAX_ROUNDS = 5
"""How often one request is asked again at most, each time without one setting more."""
_OPTIONAL: tuple[Setting, ...] = ("temperature", "effort")
"""The settings of a request that may be left out."""
_OTHER_FIELD: dict[MaxTokensField, MaxTokensField] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request as its model takes it. `max_tokens` of the request is what the vendor's limit must be.

    `without` are fields that the service refuses and that are no settings of a request (`stream_options`).
    """

    request: ChatRequest
    facts: ModelFacts = field(default_factory=ModelFacts)
    max_tokens_field: MaxTokensField = "max_tokens"
    without: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
    dropped: tuple[str, ...] = ()

    def effort_fields(self) -> dict[str, Any]:
        """Return the fields of a chat request that carry the effort."""
        return {} if self.request.effort is None else build_effort_fields(self.facts.effort_field, self.request.effort)


def build_effort_fields(place: EffortField, effort: str) -> dict[str, Any]:
    """Return the fields by which a vendor is told the effort.

    >>> build_effort_fields("reasoning", "low")
    {'reasoning': {'effort': 'low'}}
    """
    match place:
        case "reasoning":
            return {"reasoning": {"effort": effort}}
        case "think":
            return {"think": _to_think(effort)}
        case "thinking":
            return {"thinking": {"type": "disabled" if effort == "none" else "enabled"}}
        case "thinking_and_reasoning_effort":
            if effort == "none":
                return {"thinking": {"type": "disabled"}}
            return {"thinking": {"type": "enabled"}, "reasoning_effort": effort}
        case _:
            return {"reasoning_effort": effort}


def _to_think(effort: str) -> bool | str:
    """Return Ollama's `think`: a level where it has one of that name, else whether to think at all."""
    if effort == "none":
        return False
    return effort if effort in ("low", "medium", "high") else True


@dataclass(slots=True)
class _Memory:
    """What one model refused: settings at any value, settings at some values, and the limit's field that it takes."""

    settings: dict[Setting, str] = field(default_factory=dict)
    values: dict[tuple[Setting, object], str] = field(default_factory=dict)
    max_tokens_field: MaxTokensField | None = None


class SettingsFitter:
    """Knows what the models of one service take. Belongs to one adapter.

    `max_tokens_field` is the service's own where no fact names another.
    """

    def __init__(
        self,
        facts: Facts | None = None,
        service: str = "",
        *,
        own_address: bool = True,
        max_tokens_field: MaxTokensField = "max_tokens",
    ) -> None:
        self._facts = facts or Facts()
        self._service = service
        self._own_address = own_address
        self._max_tokens_field: MaxTokensField = max_tokens_field
        self._known: dict[str, ModelFacts] = {}
        self._memories: dict[str, _Memory] = {}

    def facts_of(self, model: str) -> ModelFacts:
        """Return what is known of a model."""
        if model not in self._known:
            if len(self._known) >= 1000:  # names come from callers
                self._known.clear()
            self._known[model] = self._facts.model(self._service, model, own_address=self._own_address)
        return self._known[model]

    def fit(self, request: ChatRequest, today: date | None = None) -> Fitted:
        """Return the request without what its model does not take, and the notices that say so."""
        facts, memory = self.facts_of(request.model), self._memories.get(request.model, _Memory())
        reasons = {name: _why_not(name, request, facts, memory) for name in _OPTIONAL}
        why: dict[str, str] = {name: reason for name, reason in reasons.items() if reason is not None}
        left_out: dict[str, Any] = dict.fromkeys(why)
        effort = None if "effort" in why else request.effort
        limit = request.max_tokens
        if limit is not None:
            limit = max(limit, min(limit + facts.room_for_thinking(effort), facts.max_output_tokens or 10**9))
        if "stream_options" in memory.settings:
            why["stream_options"] = memory.settings["stream_options"]
        without = {str(name) for name in ("stream_options",) if name in facts.refuses or name in memory.settings}
        notices = [_dropped_notice(self._name(request), why)] if why else []
        today = today or date.fromisoformat(utc_now()[:10])
        if facts.is_retiring(today) and (words := facts.describe_retirement(self._name(request), today)):
            notices.append(Notice("retiring", f"{words}."))
        return Fitted(
            replace(request, max_tokens=limit, **left_out),
            facts,
            memory.max_tokens_field or facts.max_tokens_field or self._max_tokens_field,
            frozenset(without),
            tuple(notices),
            tuple(why),
        )

    def learn(self, fitted: Fitted, refusals: Sequence[FieldRefusal]) -> bool:
        """Remember what the service refused; whether the request is another one now and worth asking again."""
        memory = self._memories.setdefault(fitted.request.model, _Memory())
        return any([self._learn_one(fitted, memory, refusal) for refusal in refusals])

    def _learn_one(self, fitted: Fitted, memory: _Memory, refusal: FieldRefusal) -> bool:
        name, request = refusal.setting, fitted.request
        if name == "max_tokens":
            # Some refuse both names: the first refusal stands then.
            if memory.max_tokens_field is not None or request.max_tokens is None or refusal.is_about_value:
                return False
            memory.max_tokens_field = _OTHER_FIELD[fitted.max_tokens_field]
            return True
        if name in fitted.without or (name != "stream_options" and getattr(request, name, None) is None):
            return False
        if refusal.is_about_value:
            memory.values[name, getattr(request, name, None)] = refusal.words
        else:
            memory.settings[name] = refusal.words
        return True

    def _name(self, request: ChatRequest) -> str:
        if not self._service or self._service == request.model:
            return request.model or self._service or "the model"
        return f"{self._service}:{request.model}"


def _why_not(name: Setting, request: ChatRequest, facts: ModelFacts, memory: _Memory) -> str | None:
    """Return why a setting of the request is left out, None where it is sent or was never set."""
    value = getattr(request, name)
    if value is None:
        return None
    refused = memory.settings.get(name) or memory.values.get((name, value))
    if refused is not None:
        return f"was refused: {refused}"
    if name == "effort":
        return None if facts.takes_effort(value) else describe_efforts(facts)
    if facts.refuses_setting(name, request.effort):
        return "is not taken"
    if name == "temperature" and facts.max_temperature is not None and value > facts.max_temperature:
        return f"is taken up to {facts.max_temperature:g}"
    return None


def describe_efforts(facts: ModelFacts) -> str:
    """Say which efforts a model takes."""
    if facts.effort_values is None:
        return "which efforts it takes is not known"
    return f"takes {', '.join(facts.effort_values)}" if facts.effort_values else "is not taken"


def _dropped_notice(name: str, why: Mapping[str, str]) -> Notice:
    words = "; ".join(f"{setting} ({reason})" for setting, reason in why.items())
    return Notice("dropped_settings", f"Left out for {name}: {words}.", {"settings": ",".join(why)})
