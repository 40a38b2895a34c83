"""The server's side in a report: its queue beside this run's answers, and where the time to first token went."""

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.analysis.server_side import ServerLoad, TTFTParts, own_load, server_loads, ttft_parts
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import Chart, Series, round_values
from evaluation.scenario import display_name
from evaluation.tables import Run
from streaming.escaping import to_line, to_markdown

_MAX_POINTS = 600
"""Readings that a chart draws; of a longer run every second, third, … one."""


def server_section(run: Run) -> Iterator[str]:
    """Yield the section on the server as Markdown lines; none if nothing was scraped and no answer has timings.

    The texts of the run's manifest must be escaped.
    """
    lines = list(_scrape_lines(run))
    if loads := server_loads(run):
        lines += ["", *_load_table(run, loads)]
    if parts := ttft_parts(run):
        lines += ["", *_parts_table(run, parts)]
    yield from lines[not lines[:1] or not lines[0] :]


def _scrape_lines(run: Run) -> Iterator[str]:
    facts, readings = run.manifest.get("scrape"), run.server
    if facts is None and not len(readings):
        return
    errors = readings["error"].dropna()
    where = (facts or {}).get("url", "a server")
    servers = ", ".join(dict.fromkeys(readings["server"].dropna())) or "a server of unknown kind"
    read = len(readings) - len(errors)
    if not read:
        reason = (facts or {}).get("problem") or (to_markdown(str(errors.iloc[-1])) if len(errors) else "no reading")
        yield f"**The metrics at {where} could not be read: {reason}.**"
        return
    failed = f"; {len(errors)} failed, the last with: {to_markdown(str(errors.iloc[-1]))}" if len(errors) else ""
    yield f"{servers} at {where}, {read} readings{failed} (`server.parquet` has all of them)."


def _load_table(run: Run, loads: Sequence[ServerLoad]) -> Iterator[str]:
    header = ["load", "readings", "answers under way here", "running", "most", "waiting", "most", "cache use", "most"]
    header += ["input tokens/s", "output tokens/s"]
    rows = [_load_row(run, load) for load in loads]
    shown = [place for place in range(len(header)) if any(row[place] != formatting.UNKNOWN for row in rows)]
    yield from formatting.markdown_table(
        [header[place] for place in shown], ([row[place] for place in shown] for row in rows), texts=1
    )
    yield ""
    yield (
        "Means over the readings, by the server's own count: it counts the requests of all its callers, and rates are "
        "those of its counters. Answers under way here: this run's, at the same moments."
    )


def _load_row(run: Run, load: ServerLoad) -> list[str]:
    gauges = []
    for pair, scale in ((load.running, 1), (load.waiting, 1), (load.cache_use, 100)):
        cells = (None, None) if pair is None else (pair[0] * scale, pair[1] * scale)
        gauges += [formatting.format_number(value) + ("" if value is None or scale == 1 else " %") for value in cells]
    rates = [formatting.format_number(rate) for rate in (load.input_tps, load.output_tps)]
    return [_level_text(run, load.level), str(load.readings), formatting.format_number(load.own), *gauges, *rates]


def _level_text(run: Run, level: float | None) -> str:
    facts = run.manifest.get("scenario", {})
    is_open = facts.get("rate") is not None
    known = level if level is not None else facts.get("rate") if is_open else facts.get("concurrency")
    return formatting.UNKNOWN if known is None else f"{known:g} starts/s" if is_open else f"{known:g} at a time"


def _parts_table(run: Run, parts: Sequence[TTFTParts]) -> Iterator[str]:
    yield "Where the time to first token went, in ms, means of the completed answers:"
    yield ""
    header = ["provider", "load", "answers", "total", "own queue", "connect", "TTFT", "queue at the server", "loading"]
    header += ["prefill", "network", "unexplained"]
    rows = [_parts_row(run, part) for part in parts]
    shown = [place for place in range(len(header)) if any(row[place] != formatting.UNKNOWN for row in rows)]
    yield from formatting.markdown_table(
        [header[place] for place in shown], ([row[place] for place in shown] for row in rows), texts=2
    )
    yield ""
    source = "from its metrics, over all its callers" if any(part.is_scraped for part in parts) else "in its answers"
    estimated = (
        " ≈: from the number of its waiting requests at each reading, by Little's law."
        if any(part.is_queue_estimated for part in parts)
        else ""
    )
    yield (
        f"Total = own queue + connect + TTFT. The server's timings are {source}.{estimated} Network: one round trip, "
        "the shortest time to open a connection (half of it with TLS). Unexplained: what remains of the TTFT, as the "
        "server's routing, its first token and its sending; below 0 if its clock counts more than arrived here."
    )


def _parts_row(run: Run, part: TTFTParts) -> list[str]:
    times_s = (
        part.total_s, part.queue_s, part.connect_s, part.ttft_s, part.server_queue_s, part.server_load_s,
        part.server_prefill_s, part.network_s, part.unexplained_s,
    )  # fmt: skip
    cells = list(map(formatting.format_ms, times_s))
    cells[4] = f"≈ {cells[4]}" if part.is_queue_estimated else cells[4]
    return [display_name(part.name), _level_text(run, part.level), str(part.answers), *cells]


def server_charts(run: Run) -> list[Chart]:
    """Return the charts of the server's queue and of its cache over time; none without readings."""
    read = run.server[run.server["error"].isna()]
    if not len(read) or not run.trials["sent_monotonic_s"].notna().any():
        return []
    read = read.iloc[:: -(-len(read) // _MAX_POINTS)]
    start_s = float(run.trials["sent_monotonic_s"].min())
    read = read[read["at_s"] >= start_s - 1]
    at_s = read["at_s"].to_numpy(np.float64)
    if not len(at_s):
        return []
    x = round_values(np.maximum(at_s - start_s, 0.0))
    own = own_load(run, at_s)
    lines = [("answers under way here", 0, own)]
    lines += [
        (f"{name} at the server", group, read[name].to_numpy(np.float64))
        for name, group in (("running", 2), ("waiting", 1))
        if read[name].notna().any()
    ]
    series = [Series(name, group, x=x, y=[*_known(values)]) for name, group, values in lines]
    most = "; ".join(f"{name} {np.nanmax(values):g}" for name, _, values in lines)
    server = to_line(", ".join(dict.fromkeys(read["server"].dropna())) or "the server")
    note = "Read each second from the server's own metrics, which count the requests of all its callers."
    charts = [
        Chart(
            "server-queue", f"Requests at {server}", "line", "seconds since the run began", "requests", series,
            f"At most: {most}.", note,
        )
    ]  # fmt: skip
    if read["cache_use"].notna().any():
        use = read["cache_use"].to_numpy(np.float64) * 100
        charts.append(
            Chart(
                "server-cache", f"Cache use of {server}", "line", "seconds since the run began", "% of the KV cache",
                [Series("cache use", 4, x=x, y=[*_known(use)])], f"At most {np.nanmax(use):.1f} %.", note,
            )
        )  # fmt: skip
    return charts


def _known(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.5g}") for value in values]
