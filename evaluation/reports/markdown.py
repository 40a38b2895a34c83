"""A run's report in Markdown: verdict, decision table, objectives, then the rest. Sections without data are omitted."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from evaluation import manifest, tables
from evaluation.analysis import slo, slo_checks, summary, trial_names, verdicts
from evaluation.analysis.findings import Findings
from evaluation.analysis.knee import find_knees
from evaluation.analysis.statistics import SMALL_SAMPLE_NOTE, Difference, Estimate
from evaluation.analysis.summary import Group
from evaluation.analysis.verdicts import ProviderComparison
from evaluation.analysis.workloads import shape_lengths
from evaluation.journal_faults import find_journal_faults
from evaluation.reports import cautions, decision, formatting, painting, provenance, replay, transports, verdict_text
from evaluation.reports.conversations import conversation_section
from evaluation.reports.metric_table import metric_table
from evaluation.reports.server_side import server_section
from evaluation.reports.sweep import headline as sweep_headline
from evaluation.reports.sweep import knee_lines
from evaluation.reports.throughput import throughput_table, write_levels
from evaluation.reports.workload import length_warnings, workload_table
from evaluation.runner.budget import COST_PROMISE
from evaluation.scenario import display_name
from evaluation.schema import atomic_write
from evaluation.tables import Run, escape_run
from streaming.escaping import to_markdown

REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
REPORT_FILES = (REPORT_FILE, PAGE_FILE, "plots")


def write_report(folder: Path, *, plots: bool = False) -> tuple[Run, Findings]:
    """Write the tables and the report of a folder from its journal; with `plots` also the HTML page and the PNG charts.

    The verdicts, and those on the objectives that the manifest names, are written into the manifest. Without a journal
    the tables are unchanged. Return the run and its findings. Raises UsageError when the run is missing or damaged,
    and OSError.
    """
    if tables.has_journal(folder):
        run = tables.from_journal(folder)
        tables.write(folder, run)
    else:
        run = tables.load(folder)
    findings = Findings.from_run(run)
    run = _add_verdicts(run, findings.comparisons)
    if run.manifest:
        manifest.write(folder, run.manifest)
    write_levels(folder, findings.levels)
    text = markdown(run, find_journal_faults(folder), findings)
    _write_atomically(folder / REPORT_FILE, text)
    if not plots:
        _remove_page(folder)
    else:
        # Imported here because the chart library takes a second to import.
        from evaluation.reports import charts, html, png

        chart_list = charts.build_charts(run)
        _write_atomically(folder / PAGE_FILE, html.render_html(text, chart_list))
        png.write_pngs(folder, chart_list, str(run.manifest.get("run_id", "")))
    return run, findings


def _add_verdicts(run: Run, comparisons: Sequence[ProviderComparison]) -> Run:
    """Return the run with its verdicts between providers and on its objectives in the manifest."""
    if not run.manifest or run.is_replay:
        return run
    facts = {"verdicts": [result.as_dict() for result in comparisons]}
    if objectives := run.manifest.get("slo"):
        result = slo_checks.check_objectives(run, slo.parse_slo(",".join(objectives)))
        facts["objectives"] = [verdict.as_dict() for verdict in result]
    return replace(run, manifest=run.manifest | facts)


def _write_atomically(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _remove_page(folder: Path) -> None:
    """Remove the page and the charts of an earlier report, which need not agree with this one."""
    (folder / PAGE_FILE).unlink(missing_ok=True)
    for old in (folder / "plots").glob("*.png"):
        old.unlink()
    with suppress(OSError):  # the folder holds other files
        (folder / "plots").rmdir()


def markdown(run: Run, faults: Sequence[str] = (), findings: Findings | None = None) -> str:
    """Return the report as Markdown; times are in milliseconds, and untrusted text is escaped.

    `faults` are sentences on what is missing or damaged in the run's folder, `findings` those of the run if known.
    """
    objectives = list(_objective_lines(run))
    findings = (findings or Findings.from_run(run)).escape(to_markdown)
    groups, comparisons = findings.groups, findings.comparisons
    load = [*throughput_table(findings.levels), *knee_lines(findings.levels)]
    lengths = shape_lengths(run)
    run = escape_run(run, to_markdown)
    differences = summary.strategy_differences(run)
    if run.is_replay:
        return _replay_report(run, groups, differences)
    lines = [f"# Evaluation {run.manifest.get('run_id', '')}".rstrip(), ""]
    lines += _iter_findings(run, findings, list(length_warnings(lengths)))
    lines += [line for fault in faults for line in ("", f"**Damaged: {to_markdown(fault)}.**")]
    if groups:
        lines += ["", "## Decision", "", *decision.decision_table(groups, summary.answer_lengths(run)[1])]
    sections: dict[str, Iterator[str] | list[str]] = {
        "Objectives": objectives,
        "Throughput": load,
        "Server": server_section(run),
        "Workload": workload_table(lengths),
        "Conversations": conversation_section(run),
        "Comparisons": _comparison_lines(comparisons),
        "Cadence": _cadence_table(groups),
        "Delivery to the reader": _reader_table(run, groups),
        "On the screen": list(painting.painting_table(groups)),
        "Transport overhead": list(transports.transport_table(run)),
        "Exploratory differences": _exploratory_lines(verdicts.explore_providers(run), differences),
        "All metrics": metric_table(groups),
        "Not completed": _failures_table(run, run.trials[run.trials["outcome"] != "completed"]),
        "Configuration": provenance.describe_run(run),
        "Provenance": provenance.describe_provenance(run),
    }
    for title, content in sections.items():
        if result := list(content):
            lines += ["", f"## {title}", "", *result]
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


def _iter_findings(run: Run, findings: Findings, warnings: list[str]) -> Iterator[str]:
    lost_rows = verdict_text.describe_missing_rows(run)
    if run.is_sweep:
        first = to_markdown(sweep_headline(find_knees(findings.levels)))
    else:
        first = verdict_text.headline(findings.groups, findings.comparisons)
    yield f"**{lost_rows if lost_rows and not len(run.trials) else first}**"
    if lost_rows and not len(run.trials):
        return
    if lost_rows:
        yield f"\n**{lost_rows}**"
    if notes := [*warnings, *cautions.iter_cautions(run, findings.groups, findings.comparisons)]:
        yield ""
        yield from (f"- {note}" for note in notes)
    lost = int((run.trials["outcome"] != "completed").sum())
    yield ""
    yield f"{len(run.trials) - lost} of {len(run.trials)} trials completed{_completion_note(run)}"


def _comparison_lines(comparisons: Sequence[ProviderComparison]) -> Iterator[str]:
    if comparisons:
        yield from (f"- {verdict_text.describe_comparison(entry)}." for entry in comparisons)
        yield ""
        yield _method_note(comparisons)


def _method_note(comparisons: Sequence[ProviderComparison]) -> str:
    size = comparisons[0].comparisons
    which = f"these {size} comparisons claim" if size > 1 else "this comparison claims"
    family = " (one family, by Holm)" if size > 1 else ""
    return (
        f"Only {which} anything{family}: of reports on equal providers at most 1 in 20 names a difference. Per cent "
        "are of paired answers to the same prompt, moments apart, with 95 % intervals (Student's t over log ratios, or "
        "the sign test where a pair holds a failure). All other figures are exploratory."
    )


def _completion_note(run: Run) -> str:
    planned = run.manifest.get("trials_planned")
    if run.manifest.get("complete"):
        return "."
    how = "was stopped" if run.manifest.get("interrupted") else "has not reached its end"
    if run.manifest.get("out_of_budget"):
        how = f"was ended at its maximum cost of {run.manifest.get('max_cost_usd')} USD ({COST_PROMISE})"
    return f"; **the run {how}: {len(run.trials)} of {planned if planned is not None else 'unknown'} planned trials.**"


def _objective_lines(run: Run) -> Iterator[str]:
    """Yield the verdicts on the objectives that the run was given."""
    if not (objectives := run.manifest.get("slo")) or run.is_replay or not len(run.trials):
        return
    result = slo_checks.check_objectives(run, slo.parse_slo(",".join(objectives)))
    if not result:
        return
    yield f"**Objectives: {slo_checks.worst_outcome(result)}.**"
    yield ""
    yield from (f"- {to_markdown(str(verdict))}" for verdict in result)
    yield ""
    yield (
        "Met and missed rest on one-sided 95 % exact bounds: an objective that is not met passes in at most 1 of 20 "
        "runs. They hold for these prompts as they were asked, fresh and repeated alike: of others, few prompts tell "
        "little however often they were asked. A failed trial meets no latency."
    )


def _cadence_table(groups: list[Group]) -> Iterator[str]:
    if not any(group.completed for group in groups):
        return
    header = ["provider", "strategy", "prompts", "completed", "TTFT ms", "gaps", "gap p50 ms", "p95", "p99"]
    header += ["tokens/chunk", "tokens are", "stalls", "stalled ms", "cost USD"]
    yield from formatting.markdown_table(header, map(_cadence_row, groups), texts=3)
    yield ""
    yield (
        "TTFT: the first token of any kind, thinking included; medians, failed trials count as infinitely late. The "
        "other columns are of completed trials. Gaps: latencies between text chunks on arrival, pooled by group, with "
        f"intervals that draw whole trials; a chunk is not a token. Intervals: {SMALL_SAMPLE_NOTE}. Cost: the sum over "
        "trials with a known price, ≈ if tokens are estimated. "
        f"{formatting.UNKNOWN} is unknown.{formatting.transport_note(group.name for group in groups)}"
    )


def _cadence_row(group: Group) -> list[str]:
    return [
        display_name(group.name),
        group.strategy,
        group.population,
        f"{group.completed} of {group.trials}",
        formatting.format_interval(group.median("ttft_s"), in_ms=True),
        str(group.gaps),
        *(
            formatting.format_interval(entry, in_ms=True)
            for entry in (group.gap_p50_s, group.gap_p95_s, group.gap_p99_s)
        ),
        formatting.format_number(group.median("tokens_per_chunk").value),
        ", ".join(group.token_sources) or formatting.UNKNOWN,
        formatting.UNKNOWN if group.stalls is None else str(group.stalls),
        formatting.format_ms(group.stall_s),
        formatting.format_cost(group),
    ]


_READER_COLUMNS: tuple[tuple[str, str, bool], ...] = (
    ("TTFT from the intended start ms", "ttft_total_s", True),
    ("first text ms", "delivered_ttft_s", True),
    ("whole answer ms", "delivered_e2e_s", True),
    ("delay mean ms", "delay_mean_s", True),
    ("delay max ms", "delay_max_s", True),
    ("updates/s", "updates_per_s", False),
    ("characters/s", "chars_per_s", False),
    ("waited ms", "waited_s", True),
    ("fluid up to tokens/s", "fluid_pace_tps", False),
    ("fluidity", "fluidity", False),
    ("QoE", "qoe", False),
)
_INDEXES = ("fluidity", "qoe")
"""Columns from 0 to 1 that are left out where they are 1.00 for everybody."""


def _reader_table(run: Run, groups: list[Group]) -> Iterator[str]:
    shown = [group for group in groups if group.completed]
    rows = [[_reader_cell(group, name, in_ms=in_ms) for _, name, in_ms in _READER_COLUMNS] for group in shown]
    known = [
        place
        for place, (_, name, _) in enumerate(_READER_COLUMNS)
        if any(row[place] != formatting.UNKNOWN for row in rows)
        if name not in _INDEXES or any(round(group.median(name).value or 0.0, 2) < 1 for group in shown)
    ]
    if not known:
        return
    kept = [_READER_COLUMNS[place] for place in known]
    cells = (
        [display_name(group.name), group.strategy, group.population, *(row[place] for place in known)]
        for group, row in zip(shown, rows, strict=True)
    )
    header = ["provider", "strategy", "prompts", *(heading for heading, _, _ in kept)]
    yield from formatting.markdown_table(header, cells, texts=3)
    yield from _iter_reader_notes(run, [name for _, name, _ in kept])


def _iter_reader_notes(run: Run, names: list[str]) -> Iterator[str]:
    settings = run.manifest.get("measures", {})
    yield ""
    yield (
        "Medians: latencies with failed trials as infinitely late, the rest over completed trials. Delay: from a "
        "character's arrival from the provider to its delivery by the strategy, or to its arrival at a client of the "
        "service, including this process's own lag; max is over all characters."
    )
    if "ttft_total_s" in names:
        yield (
            "From the intended start: includes the instrument's own queue, waits that a provider named, and the time "
            "to connect. TTFT and first text begin when the request is sent."
        )
    if "fluidity" in names and "fluidity" in settings:
        due = settings["fluidity"]
        yield (
            "Fluidity: the share of token deadlines met; the first text is due after "
            f"{formatting.format_ms(due['first_s'])} ms, then a token every {formatting.format_ms(due['token_s'])} ms."
        )
    if "fluid_pace_tps" in names:
        yield "Fluid up to: the fastest reading pace at which 99 % of the tokens were in time."
    if "qoe" in names and "qoe" in settings:
        yield f"QoE: 1 is a reader of {settings['qoe']['chars_per_s']:g} characters/s who never waited."


def _reader_cell(group: Group, name: str, *, in_ms: bool) -> str:
    value: Estimate | float | None = group.delay_max_s if name == "delay_max_s" else group.median(name)
    if isinstance(value, Estimate):
        return formatting.format_interval(value, in_ms=in_ms)
    return formatting.format_ms(value) if in_ms else formatting.format_number(value)


def _exploratory_lines(comparisons: list[ProviderComparison], differences: list[Difference]) -> Iterator[str]:
    if not comparisons and not differences:
        return
    yield "No verdicts: each difference stands alone, and one in twenty of these intervals misses the truth."
    yield ""
    if comparisons:
        header = ["metric (exploratory)", "prompts", "A", "B", "B against A", "pairs"]
        yield from formatting.markdown_table(header, map(_exploratory_row, comparisons), texts=4)
        yield ""
    yield from (f"- {formatting.describe_difference(difference)}" for difference in differences)


def _exploratory_row(result: ProviderComparison) -> list[str]:
    ratio = result.ratio
    change = formatting.format_change(ratio.ratio, ratio.low, ratio.high)
    names = [display_name(result.a), display_name(result.b)]
    return [formatting.metric_title(result.column), result.population, *names, change, str(ratio.pairs)]


def _failures_table(run: Run, broken: pd.DataFrame) -> Iterator[str]:
    if not len(broken):
        return
    cells, _ = trial_names.add_transport_names(run, broken)
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
