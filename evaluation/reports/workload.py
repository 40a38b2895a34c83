"""A workload in a report: the lengths that were asked for beside those that were reported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.analysis.workloads import MAX_DEVIATION, ShapeLengths
from evaluation.reports import formatting
from evaluation.scenario import display_name
from streaming.escaping import to_markdown

_HEADER = (
    "provider", "shape", "prompts", "completed", "asked input", "chat template", "input", "off by", "cached",
    "asked output", "output", "off by", "TTFT p50 ms",
)  # fmt: skip
_MEASURED_BY = {
    "encoding": "the model's own encoding",
    "server": "the server's tokenizer",
    "estimate": "an estimate of 4 characters a token",
}


def workload_table(lengths: Sequence[ShapeLengths]) -> Iterator[str]:
    """Yield the table as Markdown lines with an explanation; nothing for runs without a workload."""
    if not lengths:
        return
    yield from formatting.markdown_table(_HEADER, map(_make_row, lengths), texts=3)
    yield ""
    yield (
        "Medians of completed trials, in tokens; input and output are those that the provider reported. The chat "
        "template is what the provider counts around a prompt, measured by its warm-up: it is part of the input and "
        "left out of the deviation. Cached: the share of the input that the provider read from its cache."
    )


def _make_row(own: ShapeLengths) -> list[str]:
    return [
        to_markdown(display_name(own.name)),
        to_markdown(own.shape),
        own.population,
        str(own.trials),
        formatting.exact(own.asked_input),
        formatting.exact(own.template),
        formatting.exact(own.input),
        _format_share(own.input_deviation, sign="+"),
        _format_share(own.cached_share),
        formatting.exact(own.asked_output),
        formatting.exact(own.output),
        _format_share(own.output_deviation, sign="+"),
        formatting.format_ms(own.ttft_s),
    ]


def _format_share(share: float | None, sign: str = "") -> str:
    if share is None:
        return formatting.UNKNOWN
    percent = round(share * 100, 1)
    return f"{percent:{sign}g} %" if percent else "0 %"


def length_warnings(lengths: Sequence[ShapeLengths]) -> Iterator[str]:
    """Yield a sentence in Markdown for each provider and shape whose lengths are not those that were asked for."""
    for own in lengths:
        name = to_markdown(f"{display_name(own.name)}, {own.shape}")
        for what, share in (("input", own.input_deviation), ("output", own.output_deviation)):
            if share is not None and abs(share) > MAX_DEVIATION:
                yield (
                    f"**{name}: the {what} has {_format_share(share, sign='+')} tokens against what was asked for "
                    f"(median)**: the figures are those of another workload."
                )


def describe_workload(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on the workload of a run whose texts are escaped; nothing if its prompts were not generated."""
    scenario = manifest["scenario"]
    if scenario.get("trace"):
        yield _describe_trace(scenario)
    elif scenario.get("workload"):
        yield _describe_shapes(scenario)
    else:
        return
    for name, facts in manifest.get("workload_texts", {}).items():
        template = facts.get("template_tokens")
        beside = "has an unknown number of" if template is None else f"has {template}"
        source = _MEASURED_BY.get(str(facts.get("lengths_by")), formatting.UNKNOWN)
        yield f"- texts for {to_markdown(display_name(name))}: measured by {source}; its chat template {beside} tokens"


def _describe_trace(scenario: Mapping[str, Any]) -> str:
    trace, count = scenario["trace"], len(scenario["prompts"])
    times = "" if trace["speed_up"] == 1 else f"{trace['speed_up']:g} times "
    return (
        f"- request trace {trace['name']}: {count} requests, {times}as fast as they came; "
        f"{trace['repeated_share'] * 100:.3g} % of the input repeats blocks of earlier requests"
    )


def _describe_shapes(scenario: Mapping[str, Any]) -> str:
    workload = scenario["workload"]
    shapes = ", ".join(_describe_shape(shape) for shape in workload["shapes"])
    count, repeats = len(scenario["prompts"]), scenario["repeats"]
    shared = workload["shared_prefix"]
    prefix = f"the first {shared * 100:g} % of each text are those of its shape" if shared else "no shared prefix"
    return f"- workload in tokens, input/output: {shapes}; {count} prompts; {prefix}; repeats: {repeats}"


def _describe_shape(shape: Mapping[str, Any]) -> str:
    lengths = "/".join(f"{part['mean']}±{part['sd']}" if part["sd"] else f"{part['mean']}" for part in _lengths(shape))
    spread = f", {shape['spread']}" if any(part["sd"] for part in _lengths(shape)) else ""
    name = "" if "/" in shape["name"] else f"{shape['name']} "
    return f"{name}{lengths}{spread}"


def _lengths(shape: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return shape["input"], shape["output"]
