"""Cautions beside the verdicts: where providers are not compared like with like, a sentence says how they differ."""

from collections.abc import Iterator, Sequence

import pandas as pd

from evaluation.analysis import summary
from evaluation.analysis.statistics import Estimate
from evaluation.analysis.summary import Group
from evaluation.analysis.verdicts import ProviderComparison
from evaluation.reports import formatting
from evaluation.reports.verdict_text import describe_comparison, format_share
from evaluation.scenario import display_name
from evaluation.tables import Run

MAX_LENGTH_RATIO = 1.10
"""Median lengths of answers that differ by more are said."""
MIN_THINKING_S = 0.05
MIN_THINKING_SHARE = 0.10
"""Thinking that delays the answer text by more than both is said."""
MIN_TOKENS_PER_CHUNK = 1.5
MIN_LATE_FAILURES = 3
MIN_LATE_SHARE = 0.8
"""A provider of whose last trials so many failed, and no earlier one, is said to have failed from then on."""
_COLUMNS = (
    "name", "outcome", "block", "level", "length", "ttft_s", "ttfot_s", "cached_tokens", "input_tokens",
    "output_tokens", "thinking_tokens", "token_source", "chunks", "tokens_per_chunk", "refused_starts",
    "refused_wait_s", "model_served",
)  # fmt: skip
"""What cautions are about: selecting rows of the whole table takes longer than all of them."""


def iter_cautions(run: Run, groups: Sequence[Group], comparisons: Sequence[ProviderComparison]) -> Iterator[str]:
    """Yield the cautions as sentences; names must be escaped for the output format."""
    trials, names = summary.named_trials(run)
    trials = trials[[column for column in trials if column in _COLUMNS]]
    done = trials[trials["outcome"] == "completed"]
    cells = [(display_name(name), done[done["name"] == name]) for name in names if (done["name"] == name).any()]
    yield from _cache_cautions(groups, comparisons)
    yield from _tail_cautions(comparisons)
    yield from _late_failure_cautions(trials, names)
    yield from _cached_token_cautions(cells)
    yield from _thinking_cautions(cells)
    if len(cells) > 1:
        yield from _length_cautions(cells, summary.answer_lengths(run)[1])
    yield from _burst_cautions(cells)
    if not run.is_sweep:  # its levels differ on purpose
        yield from _load_cautions(trials, names)
    yield from _wait_cautions(trials, names)
    yield from _served_cautions(cells)


def _cache_cautions(groups: Sequence[Group], comparisons: Sequence[ProviderComparison]) -> Iterator[str]:
    if not any(group.population == "repeated" for group in groups):
        return
    yield (
        "Prompts were asked again, and a cache may answer a repeated prompt: fresh and repeated prompts are two rows, "
        "and no median pools them. New questions are fresh prompts."
    )
    for name in dict.fromkeys(group.name for group in groups):
        own = {group.population: group.answer_s for group in groups if group.name == name}
        fresh, repeated = own.get("fresh", Estimate(0)), own.get("repeated", Estimate(0))
        if fresh.value and repeated.value and repeated.value < fresh.value / MAX_LENGTH_RATIO:
            yield (
                f"{display_name(name)} answers repeated prompts after {formatting.format_ms(repeated.value)} ms, fresh "
                f"ones after {formatting.format_ms(fresh.value)} ms (medians): a cache."
            )
    for entry in comparisons:
        if entry.population == "repeated" and entry.verdict in ("better", "worse"):
            yield f"{describe_comparison(entry)}."


def _tail_cautions(comparisons: Sequence[ProviderComparison]) -> Iterator[str]:
    for one in comparisons:
        if one.verdict in ("better", "worse") and one.ratio.rests_on_few_pairs:
            change = formatting.format_percent(one.ratio.median_ratio)
            yield (
                f"{display_name(one.a)} and {display_name(one.b)} differ by some slow trials, which a verdict counts: "
                f"in the median pair the {formatting.metric_title(one.column)} of the latter is {change}."
            )


def _late_failure_cautions(trials: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        own = trials[(trials["name"] == name) & (trials["outcome"] != "cancelled")].sort_values("block", kind="stable")
        failed = own["outcome"].ne("completed").to_numpy()
        first = int(failed.argmax()) if len(failed) else 0
        if first and failed.sum() >= MIN_LATE_FAILURES and failed[first:].mean() >= MIN_LATE_SHARE:
            yield (
                f"{display_name(name)} completed its first {first} trials, and {failed[first:].sum()} of the "
                f"{len(failed) - first} after them failed: something changed during the run."
            )


def _cached_token_cautions(cells: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    for name, own in cells:
        share = (own["cached_tokens"] / own["input_tokens"]).astype("float64")
        if len(shares := share[share > 0]):
            yield (
                f"{name} had {format_share(float(shares.median()))} of a prompt's tokens in its cache (median; "
                f"{shares.min() * 100:.0f} to {shares.max() * 100:.0f} %, in {len(shares)} trials): a repeated prompt "
                "can have a shorter TTFT than a new one."
            )


def _thinking_cautions(cells: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    for name, own in cells:
        delay_s = (own["ttfot_s"] - own["ttft_s"]).median()
        if pd.notna(delay_s) and delay_s > max(MIN_THINKING_S, MIN_THINKING_SHARE * own["ttft_s"].median()):
            yield (
                f"{name} shows its thinking first, {formatting.format_ms(delay_s)} ms (median) before its answer text: "
                "the verdict rests on the answer text, while TTFT counts the first token of any kind."
            )


def _length_cautions(cells: Sequence[tuple[str, pd.DataFrame]], unit: str) -> Iterator[str]:
    lengths = [(name, own["length"].median()) for name, own in cells]
    known = [(name, float(length)) for name, length in lengths if pd.notna(length) and length > 0]
    if len(known) > 1 and max(n for _, n in known) > MAX_LENGTH_RATIO * min(n for _, n in known):
        words = ", ".join(f"{name} {formatting.format_number(length)}" for name, length in known)
        yield (
            f"The answers differ in length (median {unit}: {words}): times of whole answers and costs are not like "
            "with like."
        )


def _burst_cautions(cells: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    for name, own in cells:
        tokens = _tokens_per_chunk(own)
        if tokens is not None and tokens >= MIN_TOKENS_PER_CHUNK:
            yield (
                f"{name} sends about {formatting.format_number(tokens)} tokens in a chunk: its gaps lie between "
                "chunks, not between tokens, and are not like those of a provider that sends each token."
            )


def _tokens_per_chunk(own: pd.DataFrame) -> float | None:
    if "tokens_per_chunk" in own and own["tokens_per_chunk"].notna().any():
        return float(own["tokens_per_chunk"].median())
    known = own["token_source"].isin(["reported", "counted"]) & own["chunks"].gt(0).fillna(False)
    tokens = own["output_tokens"] - own["thinking_tokens"].fillna(0)
    each = (tokens / own["chunks"])[known].dropna()
    return float(each.median()) if len(each) else None


def _load_cautions(trials: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    counts = {name: int((trials["name"] == name).sum()) for name in names}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{display_name(name)} {count}" for name, count in counts.items())
        yield f"The providers had different numbers of trials ({words}): only pairs are compared."
    if "level" in trials and len(names) > 1:
        levels = {name: tuple(sorted(trials.loc[trials["name"] == name, "level"].dropna().unique())) for name in names}
        if len(set(levels.values())) > 1:
            words = ", ".join(f"{display_name(n)} {', '.join(f'{x:g}' for x in entry)}" for n, entry in levels.items())
            yield f"The load differed ({words} at a time): latencies are not like with like."


def _wait_cautions(trials: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    if "refused_starts" not in trials:
        return
    for name in names:
        own = trials[trials["name"] == name]
        starts = int(own["refused_starts"].fillna(0).sum())
        if starts:
            waited_s = float(own["refused_wait_s"].fillna(0).sum())
            yield (
                f"{display_name(name)} turned away {starts} starts (HTTP 429 or 503) and named waits of "
                f"{formatting.format_number(waited_s)} s in total, which count only in TTFT from the intended start."
            )


def _served_cautions(cells: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    for name, own in cells:
        if "model_served" not in own:
            return
        service = own["model_served"].dropna().value_counts(normalize=True)
        if len(service) > 1:
            words = ", ".join(f"{model} {format_share(float(share))}" for model, share in service.items())
            yield f"{name} was answered by {len(service)} models: {words}."
