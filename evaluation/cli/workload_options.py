"""The options that say what is asked: the prompts of a file, or a workload by its token counts."""

import argparse
from pathlib import Path
from typing import Any

from evaluation.arrivals import TRACE
from evaluation.cli.run_model import RunModel
from evaluation.prompts.prompt_file import DEFAULT_PROMPTS, Prompt, read_prompts
from evaluation.scenario import MAX_RATE, InvalidScenarioError
from evaluation.transports import BROWSER, transport_kind
from evaluation.workloads.request_trace import RequestTrace, mean_rate, read_trace, repeated_share
from evaluation.workloads.workload import (
    PRESETS,
    PROMPTS_PER_SHAPE,
    SPREADS,
    WORKLOAD_FORM,
    Workload,
    make_prompts,
    parse_workload,
)
from streaming.errors import UsageError

_NOT_OF_A_TRACE: dict[str, Any] = {
    "prompts": None, "workload": None, "rate": None, "concurrency": (1,), "sweep": None, "arrivals": "constant",
    "burstiness": None, "think_s": 0.0, "max_tokens": 128,
}  # fmt: skip
"""The options that a trace replaces, with their defaults."""


def add_workload_options(new: argparse.ArgumentParser) -> None:
    """Add the options of workloads."""
    names = ", ".join(PRESETS)
    words = f"generated prompts by tokens, {WORKLOAD_FORM} as in 1000±200/300±50 (mean input/output), or {names}"
    new.add_argument("--workload", metavar="IN/OUT,…", help=words)
    new.add_argument(
        "--spread", choices=SPREADS, help="distribution of a workload's lengths (normal; of names lognormal)"
    )
    words = "share of each text of a workload that is the same in all of its shape, for a cache, as in 0.8 (0)"
    new.add_argument(
        "--think-s", type=float, metavar="S", help="of a conversation, from an answer to the next turn, in seconds (0)"
    )
    new.add_argument("--shared-prefix", type=float, metavar="SHARE", help=words)
    words = "a request trace as load, in Mooncake's JSONL: arrivals, lengths and repeated blocks as they were"
    new.add_argument("--trace", metavar="FILE", help=words)
    new.add_argument("--speed-up", type=float, metavar="X", help="how many times as fast as the trace was (1)")


def choose_requests(result: RunModel) -> dict[str, Any]:
    """Return the fields of the scenario that say what is asked, and of an open loop when. Raises UsageError."""
    if (found := _choose_trace(result)) is not None:
        prompts, trace = found
        return {"prompts": prompts, "trace": trace, "rate": mean_rate(prompts), "arrivals": TRACE}
    prompts, workload = _choose_prompts(result)
    rate = None if result.rate is None else result.rate[0]
    return {"prompts": prompts, "workload": workload, "rate": rate, "arrivals": result.arrivals}


def _choose_trace(result: RunModel) -> tuple[tuple[Prompt, ...], RequestTrace] | None:
    """Return the requests of a trace and the trace itself; None without one.

    Raises InvalidScenarioError when other options say what is asked, or when; UsageError when a line is invalid.
    """
    if result.trace is None:
        if result.speed_up is not None:
            raise InvalidScenarioError("speed_up", "speed-up: belongs to a trace (add --trace)")
        return None
    for key, default in _NOT_OF_A_TRACE.items():
        if getattr(result, key) != default:
            words = f"{key.replace('_', '-')}: a trace says itself what is asked and when (leave one of them out)"
            raise InvalidScenarioError(key, words)
    path, speed_up = Path(result.trace), result.speed_up or 1.0
    prompts = read_trace(path, speed_up, result.prompt_count)
    if (rate := mean_rate(prompts)) > MAX_RATE:
        words = (
            f"trace: {rate:g} requests per second (at most {MAX_RATE:g}: use a smaller --speed-up or --prompt-count)"
        )
        raise InvalidScenarioError("trace", words)
    if rate <= 0:
        raise InvalidScenarioError("trace", "trace: its requests are weeks apart (use a larger --speed-up)")
    return prompts, RequestTrace(path.name, speed_up, round(repeated_share(prompts), 6))


def _choose_prompts(result: RunModel) -> tuple[tuple[Prompt, ...], Workload | None]:
    """Return the prompts of a run, and its workload if they are generated. Raises InvalidScenarioError."""
    prompts: Any = result.prompts
    if result.workload is None:
        for key in ("spread", "shared_prefix"):
            if getattr(result, key) is not None:
                raise InvalidScenarioError(key, f"{key.replace('_', '-')}: belongs to a workload (add --workload)")
        prompts = prompts or read_prompts(DEFAULT_PROMPTS)
        _check_turns(result, prompts)
        return _first_prompts(prompts, result.prompt_count), None
    if prompts is not None:
        raise InvalidScenarioError("workload", "workload and prompts are both set (set one of them)")
    if result.max_tokens != _NOT_OF_A_TRACE["max_tokens"]:
        words = "max-tokens: a workload says itself how long its answers are (leave one of them out)"
        raise InvalidScenarioError("max_tokens", words)
    try:
        workload = Workload(parse_workload(result.workload, result.spread), result.shared_prefix or 0.0)
    except UsageError as error:
        raise InvalidScenarioError("workload", str(error)) from None
    prompts = make_prompts(workload, result.prompt_count or PROMPTS_PER_SHAPE, result.seed)
    _check_turns(result, prompts)
    return prompts, workload


def _check_turns(result: RunModel, prompts: tuple[Prompt, ...]) -> None:
    """Raise InvalidScenarioError for turns that cannot be asked, and for a think time without any."""
    has_turns = any(prompt.turns for prompt in prompts)
    if result.think_s and not has_turns:
        raise InvalidScenarioError("think_s", "think-s: no prompt has several turns (leave it out, or add turns)")
    if has_turns and any(transport_kind(name) == BROWSER for name in result.transport):
        words = "transport: a browser asks single prompts (leave out their turns, or use another transport)"
        raise InvalidScenarioError("transport", words)


def _first_prompts(prompts: tuple[Prompt, ...], count: int | None) -> tuple[Prompt, ...]:
    if count is not None and count > len(prompts):
        raise InvalidScenarioError(
            "prompt_count", f"prompt-count: out of range (use 1 to {len(prompts)}, the number of prompts)"
        )
    return prompts[:count]
