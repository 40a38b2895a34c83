"""The vendors' rules for rejected fields, retired models, token counts and billing, from a table with its own sources.

The table is independent of the adapters, so that the simulator rejects requests based on their incorrect assumptions.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

TABLE = Path(__file__).with_name("vendor_rules.toml")
VENDORS = (
    "openai", "azure", "anthropic", "ollama", "openrouter", "groq", "together", "deepseek", "mistral", "xai", "hf",
    "gemini", "cerebras", "fireworks", "moonshot", "zai", "perplexity",
)  # fmt: skip
"""The vendors that a path can select, as in `/xai/v1/chat/completions`."""


@dataclass(frozen=True, slots=True)
class UsageShape:
    """The format in which a vendor reports tokens and cost. The table documents the values."""

    thinking: Literal["inside", "outside", "unexplained"] = "inside"
    bill: Literal["usd", "object", "ticks"] | None = None
    place: Literal["chunk", "choice", "x_groq"] = "chunk"
    always: bool = False
    cache_field: str | None = None
    upstream: str | None = None
    timings: Literal["usage", "time_info"] | None = None
    limits_thinking: bool = True
    """Whether a request's limit on output tokens includes thinking."""


DEFAULT_SHAPE = UsageShape()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A vendor's error response to a request. `field` is the rejected field, if any."""

    status: int
    message: str
    code: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class VendorRules:
    """The rules of the table as of a given date."""

    table: Mapping[str, Any]
    today: date

    @classmethod
    def load(cls, today: date) -> "VendorRules":
        """Load the packaged table."""
        return cls(_read_table(), today)

    def check(self, vendor: str, model: str, fields: Mapping[str, Any], api_version: str | None) -> Rejection | None:
        """Return the vendor's rejection of a request's JSON object, or None if the vendor accepts it."""
        return next(self._objections(vendor, model, fields, api_version), None)

    def usage_shape(self, vendor: str) -> UsageShape:
        """Return the format in which a vendor reports usage."""
        shape = {k: v for k, v in self.table["usage"].get(vendor, {}).items() if k not in ("source", "checked")}
        return UsageShape(**shape)

    def shutdown_date(self, vendor: str, model: str) -> date | None:
        """Return the date on which a vendor shuts down a model, or None if no date is known."""
        return next((rule["since"] for rule in self._list_retired(vendor) if rule["model"] == model), None)

    def listed_models(self, vendor: str) -> list[str]:
        """Return a vendor's models in the table that are still available, and the successors of all its models."""
        models: dict[str, None] = {}
        for rule in self._list_retired(vendor):
            if rule["since"] > self.today:
                models[rule["model"]] = None
            models[rule["successor"]] = None
        return list(models)

    def listed_prices(self, vendor: str) -> list[dict[str, Any]]:
        """Return the upstreams with their prices that a router lists for every model, none if it is no router."""
        return list(self.table["listed_prices"].get(vendor, ()))

    def caches(self, vendor: str, input_tokens: int) -> bool:
        """Return whether a vendor automatically caches a prompt of `input_tokens` tokens."""
        rule = self.table["cache"]
        return vendor in rule["vendors"] and input_tokens >= rule["from_tokens"]

    def bill_usd(self, fresh: int, cached: int, output: int) -> float:
        """Return the cost in USD of `fresh` and `cached` input tokens and of `output` tokens, including thinking."""
        price = self.table["bill"]
        return float(fresh * price["input"] + cached * price["cached"] + output * price["output"]) / 1e6

    def _objections(
        self, vendor: str, model: str, fields: Mapping[str, Any], api_version: str | None
    ) -> Iterator[Rejection]:
        for rule in self._list_retired(vendor):
            if rule["model"] == model and rule["since"] <= self.today:
                yield _rejection(rule, {"model": model, "successor": rule["successor"]})
        known = self.table["known_fields"].get(vendor, fields)
        for name in fields.keys() - set(known):
            yield Rejection(422 if vendor == "mistral" else 400, f"Unknown parameter: '{name}'.", None, name)
        for rule in self.table["refused"]:
            if _applies(rule, vendor, model, effort_of(fields), api_version):
                for name in rule["fields"]:
                    if fields.get(name) is not None:
                        yield _rejection(rule, {"field": name}, name)
        yield from self._effort_objections(vendor, model, effort_of(fields))

    def _effort_objections(self, vendor: str, model: str, effort: str | None) -> Iterator[Rejection]:
        rules = (r for r in self.table["effort"] if r["vendor"] == vendor and _matches(r["models"], model))
        rule = next(rules, None)
        if rule is not None and effort is not None and effort not in rule["values"]:
            values = ", ".join(f"'{value}'" for value in rule["values"])
            message = f"Unsupported value: '{effort}' is not supported with this model. Supported values are: {values}."
            yield Rejection(400, message, "unsupported_value", "reasoning_effort")

    def _list_retired(self, vendor: str) -> list[Mapping[str, Any]]:
        return [rule for rule in self.table["retired"] if rule["vendor"] == vendor]


def effort_of(fields: Mapping[str, Any]) -> str | None:
    """Return the requested reasoning effort from any of the wire formats' fields, or None if it is not set."""
    for outer, inner in (("reasoning", "effort"), ("output_config", "effort")):
        result = fields.get(outer)
        if isinstance(result, dict) and isinstance(result.get(inner), str):
            return str(result[inner])
    value = fields.get("reasoning_effort")
    return value if isinstance(value, str) else None


def split_vendor(path: str) -> tuple[str | None, str]:
    """Split a path into the vendor and OpenAI's equivalent path, or None and the path if it names no vendor.

    >>> split_vendor("/groq/openai/v1/chat/completions")
    ('groq', '/v1/chat/completions')
    """
    first, _, rest = path[1:].partition("/")
    if first not in VENDORS or (first == "openai" and rest.startswith(("deployments/", "v1/", "models"))):
        return None, path
    for ending in ("/chat/completions", "/responses", "/models"):
        if f"/{rest}".endswith(ending):
            return first, f"/v1{ending}"
    return first, f"/{rest}"


def error_body(vendor: str, rejection: Rejection) -> bytes | None:
    """Return an error body in the vendor's format, or None if the vendor uses its wire format's standard error."""
    message, field = rejection.message, rejection.field
    body: Any
    if vendor == "mistral" and rejection.status == 422:
        detail = {"type": "extra_forbidden", "loc": ["body", field], "msg": message, "input": None}
        body = {"object": "error", "message": {"detail": [detail]}, "type": "invalid_request_error", "param": None}
    elif vendor == "xai":
        body = {"code": "Client specified an invalid argument", "error": message}
    elif vendor == "gemini":
        body = [{"error": {"code": rejection.status, "message": message, "status": "INVALID_ARGUMENT"}}]
    elif vendor in ("anthropic", "ollama"):
        return None
    else:
        error = {"message": message, "type": "invalid_request_error", "param": field, "code": rejection.code}
        body = {"error": error}
    return json.dumps(body, separators=(",", ":")).encode()


def _applies(rule: Mapping[str, Any], vendor: str, model: str, effort: str | None, api_version: str | None) -> bool:
    if rule["vendor"] != vendor or not _matches(rule["models"], model):
        return False
    if _matches(rule.get("except_models", []), model):
        return False
    if api_version not in rule.get("api_versions", (api_version,)):
        return False
    return effort is None or effort not in rule.get("unless_effort", ())


def _matches(patterns: list[str], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def _rejection(rule: Mapping[str, Any], words: Mapping[str, str], field: str | None = None) -> Rejection:
    return Rejection(rule["status"], rule["message"].format(**words), rule.get("code"), field)


@cache
def _read_table() -> Mapping[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))
