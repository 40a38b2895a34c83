"""A run's report in Markdown: findings, results, failures and provenance. Sections without data are omitted."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evaluation import tables
from evaluation.analysis import statistics, summary
from evaluation.analysis.statistics import METHOD_NOTE, MIN_TRIALS, Difference, Estimate
from evaluation.analysis.summary import Group
from evaluation.escaping import to_markdown
from evaluation.reports import formatting, provenance, replay
from evaluation.scenario import IN_PROCESS, display_name
from evaluation.schema import atomic_write
from evaluation.tables import Run, escape_run

HEADER = ("transport", "pairs", "first text ms", "whole answer ms", "gap p99 ms", "connect ms", "timestamps")


def transport_table(run: Run) -> Iterator[str]:
    """Yield the table as Markdown lines with an explanation; nothing if no transports can be paired."""
    differences = summary.wire_differences(run)
    if not any(difference.estimate.n for difference in differences):
        return
    first, *others = summary.transports(run)
    rows = [_transport_row(run, name, [d for d in differences if d.b == name]) for name in others]
    yield from formatting.markdown_table(HEADER, rows, texts=1)
    yield ""
    yield (
        f"Medians of the differences to {first}, on the same prompt, provider and strategy within one block, with 95 % "
        f"intervals from {MIN_TRIALS} pairs on; one that contains 0 is within the noise. The metrics are "
        "those of the reader: over a transport of the text that arrives at the client, in process of the text that "
        "leaves the strategy. The gap is the p99 of an answer. Each trial opens a new connection: the time to connect "
        "is before the request is sent, and in no other metric."
    )
    if first == IN_PROCESS:
        yield ""
        yield (
            "Over a transport another process answers, which shares the processors if it runs on this machine: the "
            "differences include the whole path, with the service."
        )


def _transport_row(run: Run, name: str, differences: list[Difference]) -> list[str]:
    trials = run.trials[run.trials["transport"] == name]
    connect = statistics.column_median(trials, "connect_s")
    return [
        name,
        str(max(difference.estimate.n for difference in differences)),
        *(formatting.format_interval(difference.estimate, in_ms=True) for difference in differences),
        formatting.format_ms(connect.value),
        _timestamp_sources(trials["stamp_source"]),
    ]


def _timestamp_sources(sources: "pd.Series[str]") -> str:
    return ", ".join(sorted(sources.dropna().unique())) or formatting.UNKNOWN


REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
REPORT_FILES = (REPORT_FILE, PAGE_FILE, "plots")


def write_report(folder: Path, *, plots: bool = False) -> Run:
    """Write the tables and the report of a folder from its journal; with `plots` also the HTML page and the PNG charts.

    Without a journal the tables are unchanged. Raises UsageError when the run is missing or damaged, and OSError.
    """
    if tables.has_journal(folder):
        run = tables.from_journal(folder)
        tables.write(folder, run)
    else:
        run = tables.load(folder)
    text = markdown(run)
    _write_atomically(folder / REPORT_FILE, text)
    if plots:
        # Imported here because the chart library takes a second to import.
        from evaluation.reports import charts, html, png

        chart_list = charts.build_charts(run)
        _write_atomically(folder / PAGE_FILE, html.render_html(text, chart_list))
        png.write_pngs(folder, chart_list, str(run.manifest.get("run_id", "")))
    return run


def _write_atomically(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def markdown(run: Run) -> str:
    """Return the report as Markdown; times are in milliseconds, and untrusted text is escaped."""
    run = escape_run(run, to_markdown)
    groups, differences = summary.groups(run), summary.differences(run)
    if provenance.is_replay(run):
        return _replay_report(run, groups, differences)
    lines = [f"# Evaluation {run.manifest.get('run_id', '')}".rstrip(), "", *_iter_findings(run, groups, differences)]
    lines += ["", "## Configuration", "", *provenance.describe_run(run)]
    if any(group.completed for group in groups):
        lines += ["", "## Results", "", *_results_table(groups), *_cached_notes(run)]
        lines += ["", "## Delivery to the reader", "", *_reader_table(run, groups)]
    if overhead := list(transport_table(run)):
        lines += ["", "## Transport overhead", "", *overhead]
    if differences:
        lines += ["", "## Differences", "", *_difference_lines(differences)]
    if len(broken := run.trials[run.trials["outcome"] != "completed"]):
        lines += ["", "## Not completed", "", *_failures_table(run, broken)]
    lines += ["", "## Provenance", "", *provenance.describe_provenance(run)]
    return "\n".join(lines) + "\n"


def _replay_report(run: Run, groups: list[Group], differences: list[Difference]) -> str:
    lines = [f"# What if {run.manifest.get('run_id', '')}".rstrip(), ""]
    lines += [f"**{replay.describe_finding(groups, differences)}**", "", *provenance.describe_run(run)]
    lines += ["", "## Simulated delivery to the reader", "", *replay.replay_markdown(groups)]
    if differences:
        lines += [
            "",
            "## Differences",
            "",
            "Medians of the differences on the same recording, with 95 % intervals.",
            "",
        ]
        lines += [f"- {formatting.describe_difference(difference)}" for difference in differences]
    if len(broken := run.trials[run.trials["outcome"] != "completed"]):
        lines += ["", "## Recordings of answers that were not completed", "", *_failures_table(run, broken)]
    return "\n".join([*lines, "", "## Provenance", "", *provenance.describe_provenance(run)]) + "\n"


def _iter_findings(run: Run, groups: list[Group], differences: list[Difference]) -> Iterator[str]:
    first = _headline_difference(differences)
    if first is not None:
        yield f"**{formatting.describe_difference(first)}**"
    elif groups and groups[0].ttft_s.n:
        yield f"**{_single_group_text(groups[0])}**"
    else:
        yield "**No trial was completed: there is nothing to compare.**"
    others = [d for d in differences if d.column in ("delay_mean_s", "updates_per_s") and d is not first]
    others += [d for d in summary.wire_differences(run) if d.column == "delivered_ttft_s" and d.estimate.n]
    if others:
        yield ""
    yield from (f"- {formatting.describe_difference(difference)}" for difference in others)
    lost = int((run.trials["outcome"] != "completed").sum())
    yield ""
    yield f"{len(run.trials) - lost} of {len(run.trials)} trials completed{_completion_note(run)}"


def _headline_difference(differences: list[Difference]) -> Difference | None:
    """Return the first TTFT difference between providers, else the first delay difference between strategies."""
    columns = ("ttft_s", "delay_mean_s")
    return next((d for column in columns for d in differences if d.column == column), None)


def _completion_note(run: Run) -> str:
    planned = run.manifest.get("trials_planned")
    if run.manifest.get("complete"):
        return "."
    how = "was stopped" if run.manifest.get("interrupted") else "has not reached its end"
    if run.manifest.get("out_of_budget"):
        how = f"was ended so that it cannot cost more than {run.manifest.get('max_cost_usd')} USD"
    return f"; **the run {how}: {len(run.trials)} of {planned if planned is not None else 'unknown'} planned trials.**"


def _single_group_text(group: Group) -> str:
    ttft = formatting.format_interval(group.ttft_s, in_ms=True)
    gap = f", then a chunk every {formatting.format_ms(group.gap_p50_s)} ms" if group.gaps else ""
    return f"{display_name(group.name)}: first token after {ttft} ms{gap} (medians, {group.ttft_s.n} trials)."


def _results_table(groups: list[Group]) -> Iterator[str]:
    header = ["provider", "strategy", "trials", "completed", "TTFT ms", "gaps", "gap p50 ms", "p95", "p99"]
    header += ["tokens/s", "tokens are", "stalls", "stalled ms", "cost USD"]
    yield from formatting.markdown_table(header, map(_results_row, groups))
    yield ""
    yield (
        "Results of completed trials. TTFT and tokens/s: medians over trials with 95 % bootstrap intervals, from "
        f"{MIN_TRIALS} trials on; {METHOD_NOTE}. Gaps: latencies between text chunks on arrival, pooled by group; a "
        "chunk is not a token. Cost: the sum over trials with a known price, ≈ if tokens are estimated. "
        f"{formatting.UNKNOWN} is unknown.{formatting.transport_note(group.name for group in groups)}"
    )


def _cached_notes(run: Run) -> Iterator[str]:
    """Yield a note for each provider whose TTFT is reduced by cached prompt tokens."""
    done, _ = summary.add_transport_names(run, run.trials[run.trials["outcome"] == "completed"])
    share = (done["cached_tokens"] / done["input_tokens"]).astype("float64") * 100
    for name, shares in share[share > 0].groupby(done["name"]):
        low, middle, high = shares.min(), shares.median(), shares.max()
        yield ""
        yield (
            f"{display_name(str(name))} had {middle:.0f} % of a prompt's tokens in its cache (median; {low:.0f} to "
            f"{high:.0f} %, in {len(shares)} trials): a repeated prompt has a shorter TTFT than a new one."
        )


def _results_row(group: Group) -> list[str]:
    return [
        display_name(group.name),
        group.strategy,
        str(group.trials),
        str(group.completed),
        formatting.format_interval(group.ttft_s, in_ms=True),
        str(group.gaps),
        formatting.format_ms(group.gap_p50_s),
        formatting.format_ms(group.gap_p95_s),
        formatting.format_ms(group.gap_p99_s),
        formatting.format_interval(group.output_tps, in_ms=False),
        ", ".join(group.token_sources) or formatting.UNKNOWN,
        formatting.UNKNOWN if group.stalls is None else str(group.stalls),
        formatting.format_ms(group.stall_s),
        formatting.format_cost(group),
    ]


def _reader_table(run: Run, groups: list[Group]) -> Iterator[str]:
    columns: list[tuple[str, str, bool]] = [
        ("TTFT from the intended start ms", "ttft_total_s", True),
        ("first text ms", "delivered_ttft_s", True),
        ("whole answer ms", "delivered_e2e_s", True),
        ("delay mean ms", "delay_mean_s", True),
        ("delay max ms", "delay_max_s", True),
        ("updates/s", "updates_per_s", False),
        ("characters/s", "chars_per_s", False),
        ("fluidity", "fluidity", False),
        ("QoE", "qoe", False),
    ]
    rows = [
        [display_name(g.name), g.strategy, *(_reader_cell(g, name, in_ms=in_ms) for _, name, in_ms in columns)]
        for g in groups
        if g.completed
    ]
    known = [place for place in range(len(columns)) if any(row[place + 2] != formatting.UNKNOWN for row in rows)]
    kept = [columns[place] for place in known]
    rows = [[*row[:2], *(row[place + 2] for place in known)] for row in rows]
    yield from formatting.markdown_table(["provider", "strategy", *(heading for heading, _, _ in kept)], rows)
    yield from _iter_reader_notes(run, [name for _, name, _ in kept])


def _iter_reader_notes(run: Run, names: list[str]) -> Iterator[str]:
    settings = run.manifest.get("measures", {})
    yield ""
    yield (
        "Medians over completed trials. Delay: from a character's arrival to its delivery by the strategy, including "
        "this process's own lag; max is over all characters."
    )
    if "ttft_total_s" in names:
        yield (
            "From the intended start: includes the instrument's own queue and the time to connect. TTFT and first text "
            "begin when the request is sent."
        )
    if "fluidity" in names and "fluidity" in settings:
        due = settings["fluidity"]
        yield (
            "Fluidity: the share of token deadlines met; the first text is due after "
            f"{formatting.format_ms(due['first_s'])} ms, then a token every {formatting.format_ms(due['token_s'])} ms."
        )
    if "qoe" in names and "qoe" in settings:
        yield f"QoE: 1 is a reader of {settings['qoe']['chars_per_s']:g} characters/s who never waited."


def _reader_cell(group: Group, name: str, *, in_ms: bool) -> str:
    value = getattr(group, name)
    if isinstance(value, Estimate):
        return formatting.format_interval(value, in_ms=in_ms)
    return formatting.format_ms(value) if in_ms else formatting.format_number(value)


def _difference_lines(differences: list[Difference]) -> Iterator[str]:
    yield "Medians of the differences between trials of one block (same prompt, seconds apart), with 95 % intervals."
    yield ""
    yield from (f"- {formatting.describe_difference(difference)}" for difference in differences)


def _failures_table(run: Run, broken: pd.DataFrame) -> Iterator[str]:
    cells, _ = summary.add_transport_names(run, broken)
    keys = ["name", "outcome", "error_type", "http_status", "error_message"]
    counts = cells.groupby(keys, dropna=False, sort=True).size()
    rows = (
        [
            display_name(str(key[0])),
            str(key[1]),
            *(formatting.UNKNOWN if pd.isna(k) else str(k) for k in key[2:]),
            str(count),
        ]
        for key, count in counts.items()
        if isinstance(key, tuple)
    )
    yield from formatting.markdown_table(["provider", "outcome", "reason", "HTTP", "message", "trials"], rows, texts=5)
