"""Responses to requests other than chat: the vendors' model lists, Ollama's metadata and the health check.

The models are the profiles and `fault-NAME` for every fault. Any other model name uses the default profile.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from simulator.faults import FAULTS
from simulator.schedules import PROFILES
from simulator.wires.base import dumps

MODEL_NAMES = (*PROFILES, *(f"fault-{name}" for name in FAULTS))
_EPOCH = "2025-01-01T00:00:00Z"
_DETAILS = {
    "parent_model": "",
    "format": "simulated",
    "family": "simulated",
    "families": ["simulated"],
    "parameter_size": "0",
    "quantization_level": "none",
}


def _openai_models() -> bytes:
    return openai({})


def openai(known: Mapping[str, date | None], upstreams: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Return a model list in OpenAI's format, including a vendor's `known` models with their shutdown dates.

    `upstreams` are those that a router lists with every model, with their prices.
    """
    data = [_openai_model_object(name) for name in MODEL_NAMES]
    for name, shutdown in known.items():
        dated = {} if shutdown is None else {"shutdown_date": shutdown.isoformat()}
        data.append({**_openai_model_object(name), **dated})
    if upstreams:
        data = [{**model, "providers": upstreams} for model in data]
    return dumps({"object": "list", "data": data})


def anthropic_models() -> bytes:
    """Return the model list in Anthropic's format."""
    data = [
        {"type": "model", "id": name, "display_name": f"{name} (simulated)", "created_at": _EPOCH}
        for name in MODEL_NAMES
    ]
    return dumps({"data": data, "has_more": False, "first_id": MODEL_NAMES[0], "last_id": MODEL_NAMES[-1]})


def _openai_model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulator"}


def _ollama_tags() -> bytes:
    return dumps({"models": [_ollama_model_object(name) for name in MODEL_NAMES]})


def _ollama_model_object(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": _EPOCH, "size": 0, "digest": "0" * 64, "details": _DETAILS}


def _ollama_show() -> bytes:
    about = {"modelfile": "# simulated", "parameters": "", "template": "", "details": _DETAILS}
    return dumps({**about, "model_info": {"general.architecture": "simulated"}, "capabilities": ["completion"]})


MODEL_LISTS: Mapping[tuple[str, str], Callable[[], bytes]] = {
    ("GET", "/v1/models"): _openai_models,
    ("GET", "/openai/models"): _openai_models,
    ("GET", "/openai/v1/models"): _openai_models,
    ("GET", "/api/tags"): _ollama_tags,
    ("GET", "/api/ps"): lambda: dumps({"models": []}),
    ("GET", "/api/version"): lambda: dumps({"version": "0.0.0-simulated"}),
    ("POST", "/api/show"): _ollama_show,
    ("GET", "/healthz"): lambda: dumps({"status": "ok", "simulated": True}),
}
"""The responses by method and path.

With Anthropic's version header, `/v1/models` returns `anthropic_models` instead.
"""
