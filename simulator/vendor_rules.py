"""What the vendors' servers refuse, retire, count and bill, as a table of its own with its own sources (pure data).

The adapters' facts are not read here, so that a wrong fact of theirs meets a refusal of this table.
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
"""Vendors that a path can name, as in `/xai/v1/chat/completions`."""


@dataclass(frozen=True, slots=True)
class UsageShape:
    """How a vendor reports tokens and its bill; see the table."""

    thinking: Literal["inside", "outside", "unexplained"] = "inside"
    bill: Literal["usd", "object", "ticks"] | None = None
    place: Literal["chunk", "choice", "x_groq"] = "chunk"
    always: bool = False
    cache_field: str | None = None


DEFAULT_SHAPE = UsageShape()


@dataclass(frozen=True, slots=True)
class Rejection:
    """What a vendor answers in place of an answer. `field` is the setting that it objects to, if one."""

    status: int
    message: str
    code: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class VendorRules:
    """The rules of the table on one day."""

    table: Mapping[str, Any]
    today: date

    @classmethod
    def load(cls, today: date) -> "VendorRules":
        """Parse the packaged table."""
        return cls(_read_table(), today)

    def check(self, vendor: str, model: str, fields: Mapping[str, Any], api_version: str | None) -> Rejection | None:
        """Return how a vendor refuses a request's JSON object; None for one that it takes."""
        return next(self._objections(vendor, model, fields, api_version), None)

    def usage_shape(self, vendor: str) -> UsageShape:
        """Return how a vendor reports usage."""
        found = {k: v for k, v in self.table["usage"].get(vendor, {}).items() if k not in ("source", "checked")}
        return UsageShape(**found)

    def shutdown_date(self, vendor: str, model: str) -> date | None:
        """Return the day on which a vendor shuts a model down, None where none is set."""
        return next((rule["since"] for rule in self._list_retired(vendor) if rule["model"] == model), None)

    def listed_models(self, vendor: str) -> list[str]:
        """Return the models of a vendor that the table knows and that still answer, and their successors."""
        found: dict[str, None] = {}
        for rule in self._list_retired(vendor):
            if rule["since"] > self.today:
                found[rule["model"]] = None
            found[rule["successor"]] = None
        return list(found)

    def caches(self, vendor: str, input_tokens: int) -> bool:
        """Whether a vendor keeps a prompt of that many tokens in its cache, unasked."""
        rule = self.table["cache"]
        return vendor in rule["vendors"] and input_tokens >= rule["from_tokens"]

    def bill_usd(self, fresh: int, cached: int, output: int) -> float:
        """Return what a simulated answer is billed at: `fresh` and `cached` input tokens, `output` with thinking."""
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
    """Return the effort that a request asks for, wherever its wire has it."""
    for outer, inner in (("reasoning", "effort"), ("output_config", "effort")):
        found = fields.get(outer)
        if isinstance(found, dict) and isinstance(found.get(inner), str):
            return str(found[inner])
    value = fields.get("reasoning_effort")
    return value if isinstance(value, str) else None


def split_vendor(path: str) -> tuple[str | None, str]:
    """Return the vendor that a path names, and the path as OpenAI's own; None and the path where it names none.

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
    """Return an error in a vendor's own shape; None where it is that of its wire."""
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
