"""A sweep in a report: its knee in words, latency against throughput, and goodput against load."""

from collections.abc import Iterator, Sequence

from evaluation.analysis.knee import Knee, find_knees
from evaluation.analysis.throughput import LoadLevel
from evaluation.levels import GROWTH
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import Chart, Series
from evaluation.scenario import display_name
from streaming.escaping import to_line, to_markdown

_NOTE = (
    f"Knee: the lowest level that delivers at least {100 - 100 * GROWTH:g} % of the most that any level did; brackets "
    "are 95 % intervals over draws of time slices."
)


def describe_knee(knee: Knee) -> str:
    """Return the knee in a sentence, without its end."""
    what = "goodput" if knee.metric == "goodput" else "throughput"
    bounds = "" if knee.low is None or knee.high is None else f" [{knee.low:g}, {knee.high:g}]"
    unit = "starts/s" if knee.is_open else "at a time"
    rate = f"{formatting.format_number(knee.rate)} answers/s"
    if not knee.is_passed:
        return f"{display_name(knee.name)}: no knee up to {knee.level:g} {unit}, where {what} is {rate} and still grows"
    return f"{display_name(knee.name)}: {what} no longer grows after {knee.level:g}{bounds} {unit}, at {rate}"


def headline(knees: Sequence[Knee]) -> str:
    """Return the sentence that the report of a sweep begins with."""
    if not knees:
        return "No level delivered an answer: there is no knee."
    return f"{'; '.join(map(describe_knee, knees))}."


def knee_lines(levels: Sequence[LoadLevel]) -> Iterator[str]:
    """Yield the knees of a sweep as Markdown lines; none for a run of one level."""
    knees = find_knees(levels)
    if knees:
        yield ""
        yield from (f"- {to_markdown(describe_knee(knee))}." for knee in knees)
        yield ""
        yield _NOTE


def sweep_charts(levels: Sequence[LoadLevel]) -> list[Chart]:
    """Return the charts of a sweep: goodput against load, and latency against throughput; none for one level."""
    knees = find_knees(levels)
    if not knees:
        return []
    caption = to_line(headline(knees))
    charts = [_goodput_chart(levels, caption)]
    if any(level.median_s("ttft_s").value is not None for level in levels):
        charts.append(_latency_chart(levels, caption))
    return charts


def _goodput_chart(levels: Sequence[LoadLevel], caption: str) -> Chart:
    series = []
    for place, (name, own) in enumerate(_by_name(levels).items()):
        x = [level.level or 0.0 for level in own]
        has_goodput = own[0].delivery_metric == "goodput"
        delivered: list[float | str | None] = [round(level.value("throughput") or 0.0, 5) for level in own]
        series.append(Series(f"{to_line(display_name(name))}: all answers", 2 * place, x=x, y=delivered))
        if has_goodput:
            good: list[float | str | None] = [round(level.delivered_per_s, 5) for level in own]
            series.append(Series(f"{to_line(display_name(name))}: within the objectives", 2 * place + 1, x=x, y=good))
    axis = "requests started per second" if levels[0].is_open else "concurrent answers"
    return Chart("goodput", "Goodput against load", "line", axis, "answers/s", series, caption, _NOTE, has_points=True)


def _latency_chart(levels: Sequence[LoadLevel], caption: str) -> Chart:
    series = []
    for place, (name, own) in enumerate(_by_name(levels).items()):
        known = [(level, value) for level in own if (value := level.median_s("ttft_s").value) is not None]
        x = [round(level.value("throughput") or 0.0, 5) for level, _ in known]
        y: list[float | str | None] = [round(value * 1000, 3) if value < 1e9 else None for _, value in known]
        series.append(Series(to_line(display_name(name)), place, x=x, y=y))
    note = "One point a level, joined in the order of the load; a failed answer counts as infinitely late. " + _NOTE
    return Chart(
        "latency-throughput", "Latency against throughput", "line", "answers/s", "median TTFT in ms", series, caption,
        note, has_points=True,
    )  # fmt: skip


def _by_name(levels: Sequence[LoadLevel]) -> dict[str, list[LoadLevel]]:
    result: dict[str, list[LoadLevel]] = {}
    for level in levels:
        result.setdefault(level.name, []).append(level)
    return result
