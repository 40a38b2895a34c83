"""Conversations in a report: time to first token by turn and by the size of what was sent, with the cached share."""

from collections.abc import Iterator, Sequence

from evaluation.analysis.conversations import TurnGroup, size_groups, turn_groups
from evaluation.analysis.statistics import SMALL_SAMPLE_NOTE
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import Chart, Series
from evaluation.scenario import display_name
from evaluation.tables import Run
from streaming.escaping import to_line

_COLUMNS = ("completed", "context", "input", "cached", "uncached", "TTFT p50 ms")
_NOTE = "Medians of completed turns of conversations; each turn waited for the answer before."


def conversation_section(run: Run) -> Iterator[str]:
    """Yield the tables as Markdown lines with an explanation; nothing for a run without conversations."""
    turns = turn_groups(run)
    if not turns:
        return
    yield from formatting.markdown_table(["provider", "turn", *_COLUMNS], map(_make_row, turns), texts=2)
    if sizes := size_groups(run):
        yield ""
        yield from formatting.markdown_table(["provider", "input tokens", *_COLUMNS], map(_make_row, sizes), texts=2)
    yield ""
    yield (
        f"{_NOTE} Tokens: the context is that of the earlier turns, input and answers; cached is the share of the "
        f"input that the provider read from its cache, uncached the rest. Intervals: {SMALL_SAMPLE_NOTE}."
    )


def _make_row(own: TurnGroup) -> list[str]:
    share = formatting.UNKNOWN if own.cached_share is None else f"{own.cached_share * 100:.0f} %"
    tokens = [formatting.exact(value) for value in (own.context_tokens, own.input_tokens)]
    return [
        display_name(own.name),
        own.key,
        str(own.trials),
        *tokens,
        share,
        formatting.exact(own.uncached_tokens),
        formatting.format_interval(own.ttft_s, in_ms=True),
    ]


def conversation_charts(run: Run) -> list[Chart]:
    """Return the chart of the time to first token by turn; none for a run without conversations."""
    turns = turn_groups(run)
    if not turns:
        return []
    series = []
    for place, name in enumerate(dict.fromkeys(own.name for own in turns)):
        known = [own for own in turns if own.name == name and own.ttft_s.value is not None]
        y: list[float | str | None] = [round((own.ttft_s.value or 0.0) * 1000, 3) for own in known]
        series.append(Series(to_line(display_name(name)), place, x=[float(own.key) for own in known], y=y))
    caption = to_line(_describe(turns))
    title = "Time to first token by turn"
    return [Chart("turns", title, "line", "turn", "median TTFT in ms", series, caption, _NOTE, has_points=True)]


def _describe(turns: Sequence[TurnGroup]) -> str:
    """Return how the first and the last turn of each provider differ, in a sentence."""
    parts = []
    for name in dict.fromkeys(own.name for own in turns):
        own = [group for group in turns if group.name == name]
        ends = (own[0], own[-1])
        times = " and ".join(f"{formatting.format_ms(end.ttft_s.value)} ms at turn {end.key}" for end in ends)
        parts.append(f"{display_name(name)}: {times}")
    return f"{'; '.join(parts)}."
