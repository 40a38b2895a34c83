"""A run's report in Markdown: findings, figures, failures, provenance. Only what was measured has a place in it."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evaluation import provenance, summary, tables, whatif_report, wires_report, wording
from evaluation.escaping import to_markdown
from evaluation.files import replacing
from evaluation.scenario import label
from evaluation.statistics import FEWEST, RESAMPLED, Difference, Estimate
from evaluation.summary import Group
from evaluation.tables import Run, escape_run

REPORT = "report.md"
PAGE = "report.html"
FILES = (REPORT, PAGE, "plots")


def rebuild(folder: Path, *, plots: bool = False) -> Run:
    """Make the tables and the report of a folder anew from its journal, with `plots` its page and pictures too.

    The tables of a folder without a journal stay as they are. Raises UsageError, OSError.
    """
    if tables.has_journal(folder):
        run = tables.from_journal(folder)
        tables.write(folder, run)
    else:
        run = tables.load(folder)
    text = markdown(run)
    _write(folder / REPORT, text)
    if plots:
        # The drawing library takes a second to import.
        from evaluation import page, views
        from evaluation import plots as pictures

        found = views.views(run)
        _write(folder / PAGE, page.page(text, found))
        pictures.write(folder, found, str(run.manifest.get("run_id", "")))
    return run


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def markdown(run: Run) -> str:
    """Write the report; times are milliseconds in it, and what others wrote is plain text."""
    run = escape_run(run, to_markdown)
    groups, differences = summary.groups(run), summary.differences(run)
    if provenance.is_what_if(run):
        return _what_if(run, groups, differences)
    lines = [f"# Evaluation {run.manifest.get('run_id', '')}".rstrip(), "", *_findings(run, groups, differences)]
    lines += ["", "## What was run", "", *provenance.what(run)]
    if any(group.completed for group in groups):
        lines += ["", "## Figures", "", *_figures(groups), *_cached(run)]
        lines += ["", "## What the reader got", "", *_reader(run, groups)]
    if wires := list(wires_report.table(run)):
        lines += ["", "## What each wire adds", "", *wires]
    if differences:
        lines += ["", "## Differences", "", *_differences(differences)]
    if len(broken := run.trials[run.trials["outcome"] != "completed"]):
        lines += ["", "## Not completed", "", *_broken(run, broken)]
    lines += ["", "## Provenance", "", *provenance.provenance(run)]
    return "\n".join(lines) + "\n"


def _what_if(run: Run, groups: list[Group], differences: list[Difference]) -> str:
    lines = [f"# What if {run.manifest.get('run_id', '')}".rstrip(), ""]
    lines += [f"**{whatif_report.finding(groups, differences)}**", "", *provenance.what(run)]
    lines += ["", "## What the reader would have got", "", *whatif_report.figures(groups)]
    if differences:
        lines += [
            "",
            "## Differences",
            "",
            "Medians of the differences on the same recording, with 95 % intervals.",
            "",
        ]
        lines += [f"- {wording.sentence(difference)}" for difference in differences]
    if len(broken := run.trials[run.trials["outcome"] != "completed"]):
        lines += ["", "## Recordings of answers that were not completed", "", *_broken(run, broken)]
    return "\n".join([*lines, "", "## Provenance", "", *provenance.provenance(run)]) + "\n"


def _findings(run: Run, groups: list[Group], differences: list[Difference]) -> Iterator[str]:
    first = _headline(differences)
    if first is not None:
        yield f"**{wording.sentence(first)}**"
    elif groups and groups[0].ttft_s.n:
        yield f"**{_alone(groups[0])}**"
    else:
        yield "**No trial was completed: there is nothing to compare.**"
    others = [d for d in differences if d.column in ("delay_mean_s", "updates_per_s") and d is not first]
    others += [d for d in summary.wire_differences(run) if d.column == "delivered_ttft_s" and d.estimate.n]
    if others:
        yield ""
    yield from (f"- {wording.sentence(difference)}" for difference in others)
    lost = int((run.trials["outcome"] != "completed").sum())
    yield ""
    yield f"{len(run.trials) - lost} of {len(run.trials)} trials completed{_state(run)}"


def _headline(differences: list[Difference]) -> Difference | None:
    """Give the first difference between providers, else what the first strategy against another costs the reader."""
    columns = ("ttft_s", "delay_mean_s")
    return next((d for column in columns for d in differences if d.column == column), None)


def _state(run: Run) -> str:
    planned = run.manifest.get("trials_planned")
    if run.manifest.get("complete"):
        return "."
    how = "was stopped" if run.manifest.get("interrupted") else "has not reached its end"
    if run.manifest.get("out_of_budget"):
        how = f"was ended so that it cannot cost more than {run.manifest.get('max_cost_usd')} USD"
    return f"; **the run {how}: {len(run.trials)} of {planned if planned is not None else 'unknown'} planned trials.**"


def _alone(group: Group) -> str:
    ttft = wording.span(group.ttft_s, in_ms=True)
    gap = f", then a chunk every {wording.ms(group.gap_p50_s)} ms" if group.gaps else ""
    return f"{label(group.name)}: first token after {ttft} ms{gap} (medians, {group.ttft_s.n} trials)."


def _figures(groups: list[Group]) -> Iterator[str]:
    header = ["provider", "strategy", "trials", "completed", "TTFT ms", "gaps", "gap p50 ms", "p95", "p99"]
    header += ["tokens/s", "tokens are", "stalls", "stalled ms", "cost USD"]
    yield from wording.table(header, map(_figures_row, groups))
    yield ""
    yield (
        "Figures are of completed trials. TTFT and tokens/s: medians over trials with 95 % bootstrap intervals, from "
        f"{FEWEST} trials on; {RESAMPLED}. Gaps: between text chunks as they arrived, all of a group pooled; a chunk "
        f"is not a token. Cost: the sum of what has a known price, ≈ where tokens are estimated. {wording.UNKNOWN} is "
        f"unknown.{wording.over_wires(group.name for group in groups)}"
    )


def _cached(run: Run) -> Iterator[str]:
    """Tell whose first tokens came sooner because the provider knew the prompt already."""
    done, _ = summary.told_apart(run, run.trials[run.trials["outcome"] == "completed"])
    share = (done["cached_tokens"] / done["input_tokens"]).astype("float64") * 100
    for name, shares in share[share > 0].groupby(done["name"]):
        low, middle, high = shares.min(), shares.median(), shares.max()
        yield ""
        yield (
            f"{label(str(name))} had {middle:.0f} % of a prompt's tokens in its cache (median; {low:.0f} to {high:.0f} "
            f"%, in {len(shares)} trials): a prompt asked again begins sooner, so its TTFT is not that of a new prompt."
        )


def _figures_row(group: Group) -> list[str]:
    return [
        label(group.name),
        group.strategy,
        str(group.trials),
        str(group.completed),
        wording.span(group.ttft_s, in_ms=True),
        str(group.gaps),
        wording.ms(group.gap_p50_s),
        wording.ms(group.gap_p95_s),
        wording.ms(group.gap_p99_s),
        wording.span(group.output_tps, in_ms=False),
        ", ".join(group.token_sources) or wording.UNKNOWN,
        wording.UNKNOWN if group.stalls is None else str(group.stalls),
        wording.ms(group.stall_s),
        wording.cost(group),
    ]


def _reader(run: Run, groups: list[Group]) -> Iterator[str]:
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
        [label(g.name), g.strategy, *(_reader_cell(g, name, in_ms=in_ms) for _, name, in_ms in columns)]
        for g in groups
        if g.completed
    ]
    known = [place for place in range(len(columns)) if any(row[place + 2] != wording.UNKNOWN for row in rows)]
    kept = [columns[place] for place in known]
    rows = [[*row[:2], *(row[place + 2] for place in known)] for row in rows]
    yield from wording.table(["provider", "strategy", *(heading for heading, _, _ in kept)], rows)
    yield from _reader_notes(run, [name for _, name, _ in kept])


def _reader_notes(run: Run, names: list[str]) -> Iterator[str]:
    measures = run.manifest.get("measures", {})
    yield ""
    yield (
        "Medians over completed trials. Delay: from a character's arrival to its leaving the strategy, this process's "
        "own lag included; max is over all characters."
    )
    if "ttft_total_s" in names:
        yield (
            "From the intended start: the instrument's own queue and the connecting are in it, which TTFT and first "
            "text, from the request's sending on, leave out."
        )
    if "fluidity" in names and "fluidity" in measures:
        due = measures["fluidity"]
        yield (
            f"Fluidity: the share of token deadlines met; the first text is due after {wording.ms(due['first_s'])} ms, "
            f"then a token every {wording.ms(due['token_s'])} ms."
        )
    if "qoe" in names and "qoe" in measures:
        yield f"QoE: 1 is a reader of {measures['qoe']['chars_per_s']:g} characters/s who never waited."


def _reader_cell(group: Group, name: str, *, in_ms: bool) -> str:
    found = getattr(group, name)
    if isinstance(found, Estimate):
        return wording.span(found, in_ms=in_ms)
    return wording.ms(found) if in_ms else wording.number(found)


def _differences(differences: list[Difference]) -> Iterator[str]:
    yield "Medians of the differences between trials of one block (same prompt, seconds apart), with 95 % intervals."
    yield ""
    yield from (f"- {wording.sentence(difference)}" for difference in differences)


def _broken(run: Run, broken: pd.DataFrame) -> Iterator[str]:
    cells, _ = summary.told_apart(run, broken)
    keys = ["name", "outcome", "error_type", "http_status", "error_message"]
    counts = cells.groupby(keys, dropna=False, sort=True).size()
    rows = (
        [label(str(key[0])), str(key[1]), *(wording.UNKNOWN if pd.isna(k) else str(k) for k in key[2:]), str(count)]
        for key, count in counts.items()
        if isinstance(key, tuple)
    )
    yield from wording.table(["provider", "outcome", "reason", "HTTP", "message", "trials"], rows, texts=5)
