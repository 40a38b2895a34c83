"""Fitting of requests to their models: settings that a model does not accept are dropped, with a notice.

Known facts are applied first. If the service still rejects a setting (status 400 or 422), the request is retried
without it, and the rejection is remembered for each model as long as the adapter exists. `max_tokens` is never dropped
because it limits the cost of the answer; if its field is rejected, the field's other name is tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from providers.models.facts import EffortField, Facts, ModelFacts, Setting
from providers.models.setting_rejections import FieldRejection
from streaming.clock import utc_now
from streaming.events import Notice
from streaming.messages import ChatRequest

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
MAX_ROUNDS = 5
"""How often one request is sent at most. Each retry drops a setting or uses another field for `max_tokens`."""
_OPTIONAL: tuple[Setting, ...] = ("temperature", "effort")
"""The settings of a request that may be dropped."""
_OTHER_FIELD: dict[MaxTokensField, MaxTokensField] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request that has been fitted to its model. `request.max_tokens` is the limit to send, with room for thinking.

    `without` are fields to leave out that are not settings of a chat request (`stream_options`). `dropped` are the
    names of all settings that are left out.
    """

    request: ChatRequest
    facts: ModelFacts = field(default_factory=ModelFacts)
    max_tokens_field: MaxTokensField = "max_tokens"
    without: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
    dropped: tuple[str, ...] = ()

    def effort_fields(self) -> dict[str, Any]:
        """Return the fields of a chat request that carry its effort, none when it has no effort."""
        return {} if self.request.effort is None else build_effort_fields(self.facts.effort_field, self.request.effort)


def build_effort_fields(place: EffortField, effort: str) -> dict[str, Any]:
    """Return the fields that carry the effort in a vendor's request.

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
    """Return the value of Ollama's `think`: the level if Ollama has one of that name, else whether to think."""
    if effort == "none":
        return False
    return effort if effort in ("low", "medium", "high") else True


@dataclass(slots=True)
class _Memory:
    """What one model has rejected: settings at any value, settings at some values, and the field for `max_tokens`."""

    settings: dict[Setting, str] = field(default_factory=dict)
    values: dict[tuple[Setting, object], str] = field(default_factory=dict)
    max_tokens_field: MaxTokensField | None = None


class SettingsFitter:
    """A fitter of requests to the models of one service, with the rejections it has learned. Belongs to one adapter.

    `max_tokens_field` is the service's field for the limit, unless the facts name another.
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
        """Return the facts about a model."""
        if model not in self._known:
            if len(self._known) >= 1000:  # a bound, because callers choose the names
                self._known.clear()
            self._known[model] = self._facts.model(self._service, model, own_address=self._own_address)
        return self._known[model]

    def fit(self, request: ChatRequest, today: date | None = None) -> Fitted:
        """Return the request without the settings that its model rejects, and notices about the dropped settings."""
        facts, memory = self.facts_of(request.model), self._memories.get(request.model, _Memory())
        reasons = {name: _find_drop_reason(name, request, facts, memory) for name in _OPTIONAL}
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

    def learn(self, fitted: Fitted, rejections: Sequence[FieldRejection]) -> bool:
        """Remember what the service rejected, and return whether a newly fitted request is worth sending."""
        memory = self._memories.setdefault(fitted.request.model, _Memory())
        return any([self._learn_one(fitted, memory, rejection) for rejection in rejections])

    def _learn_one(self, fitted: Fitted, memory: _Memory, rejection: FieldRejection) -> bool:
        name, request = rejection.setting, fitted.request
        if name == "max_tokens":
            # Some services reject both names; then the first rejection is the answer's error.
            if memory.max_tokens_field is not None or request.max_tokens is None or rejection.is_about_value:
                return False
            memory.max_tokens_field = _OTHER_FIELD[fitted.max_tokens_field]
            return True
        if name in fitted.without or (name != "stream_options" and getattr(request, name, None) is None):
            return False
        if rejection.is_about_value:
            memory.values[name, getattr(request, name, None)] = rejection.words
        else:
            memory.settings[name] = rejection.words
        return True

    def _name(self, request: ChatRequest) -> str:
        if not self._service or self._service == request.model:
            return request.model or self._service or "the model"
        return f"{self._service}:{request.model}"


def _find_drop_reason(name: Setting, request: ChatRequest, facts: ModelFacts, memory: _Memory) -> str | None:
    """Return why a setting of the request is dropped, None when it is sent or not set."""
    value = getattr(request, name)
    if value is None:
        return None
    rejection = memory.settings.get(name) or memory.values.get((name, value))
    if rejection is not None:
        return f"was rejected: {rejection}"
    if name == "effort":
        return None if facts.takes_effort(value) else describe_efforts(facts)
    if facts.refuses_setting(name, request.effort):
        return "is not accepted"
    if name == "temperature" and facts.max_temperature is not None and value > facts.max_temperature:
        return f"is accepted up to {facts.max_temperature:g}"
    return None


def describe_efforts(facts: ModelFacts) -> str:
    """Return a phrase that lists the efforts a model accepts."""
    if facts.effort_values is None:
        return "the accepted efforts are unknown"
    return f"accepts {', '.join(facts.effort_values)}" if facts.effort_values else "is not accepted"


def _dropped_notice(name: str, why: Mapping[str, str]) -> Notice:
    words = "; ".join(f"{setting} ({reason})" for setting, reason in why.items())
    return Notice("dropped_settings", f"Left out for {name}: {words}.", {"settings": ",".join(why)})
