"""The configuration and the provenance of a run as Markdown lines for its report.

The caller passes a run whose texts are escaped; the field names of its manifest are escaped here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.analysis import origins, trial_names
from evaluation.backends import interference
from evaluation.reports import calibration, formatting, painting
from evaluation.reports.workload import describe_workload
from evaluation.scenario import display_name, full_name
from evaluation.tables import Run
from evaluation.transports import IN_PROCESS, TRANSPORTS, transport_kind
from streaming.escaping import to_markdown


def describe_run(run: Run) -> Iterator[str]:
    """Yield lines on the configuration in the manifest."""
    facts: dict[str, Any] = run.manifest.get("scenario", {})
    if not facts:
        yield "The manifest is missing: the configuration is unknown, only the results are known."
        return
    if run.is_replay:
        yield from _recording_notes(run, facts)
        return
    names = ", ".join(display_name(name) for name in facts["providers"])
    yield f"- providers: {names}"
    for model in run.trials.loc[run.trials["provider"] == "local", "model"].dropna().unique():
        yield f"- the model of local: {model}"
    yield f"- strategies: {', '.join(facts['strategies'])}; transport: {', '.join(facts['transport'])}"
    yield from _service_note(run)
    yield from _prompt_notes(run.manifest, facts)
    yield from _settings(run, facts)
    here = " in process" if _uses_service(run) else ""
    yield f"- {_load_text(facts)}; seed {facts['seed']}; retries{here}: {facts['retries']}, no fallback"
    yield from _origin_lines(run)
    yield from _peer_address_lines(run)
    for load in run.manifest.get("loads", []):
        yield f"- {_reached_load_text(load)}"
    yield from _start_delay_notes(run)
    if run.manifest.get("resumed"):
        times = run.manifest["resumed"]
        again = "once" if times == 1 else f"{times} times"
        yield f"- interrupted and resumed {again}: finished trials were not repeated"
    for name, ends in run.manifest.get("warm_up", {}).items():
        yield f"- warm-up, not recorded: {to_markdown(display_name(name))} {', '.join(ends)}"
    if any(name.startswith("sim:") for name in facts["providers"]):
        yield "- simulated: the answers follow a timing profile, not a model; such results test this instrument"


def _prompt_notes(manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on the workload, or on the prompts and those that bring more than their text."""
    prompts: Sequence[Mapping[str, Any]] = facts["prompts"]
    if facts.get("workload") or facts.get("trace"):
        yield from describe_workload(manifest)
        return
    yield f"- prompts: {', '.join(prompt['id'] for prompt in prompts)}; repeats: {facts['repeats']}"
    names = {"system": "a system prompt", "history": "earlier turns", "turns": "several turns"}
    names |= {"max_tokens": "a limit of their own"}
    counts = {words: sum(bool(prompt.get(key)) for prompt in prompts) for key, words in names.items()}
    if found := [f"{count} with {words}" for words, count in counts.items() if count]:
        yield f"- of the prompts {', '.join(found)}"


def _settings(run: Run, facts: dict[str, Any]) -> Iterator[str]:
    asked = next((name for name in ("workload", "trace") if facts.get(name)), None)
    limit = f"the {asked}'s output" if asked else f"{facts['max_tokens']}"
    yield (
        f"- at most {limit} tokens an answer; temperature: "
        f"{'left to the provider' if facts['temperature'] is None else facts['temperature']}"
    )
    if facts.get("connection"):
        kept = facts["connection"] == "keep-alive"
        yield f"- timestamped connections: {'kept open between requests' if kept else 'a new one for each request'}"
    if efforts := facts.get("effort"):
        yield f"- effort: {', '.join(efforts)}"
    yield from _dropped_settings(run)


def _dropped_settings(run: Run) -> Iterator[str]:
    """Yield a line on the settings that were dropped, and for which providers."""
    names_by_setting: dict[str, dict[str, None]] = {}
    for provider, model, settings in run.trials[["provider", "model", "dropped_settings"]].itertuples(index=False):
        if not pd.isna(settings):
            for setting in str(settings).split(","):
                name = full_name(str(provider), None if pd.isna(model) else str(model))
                names_by_setting.setdefault(setting, {})[display_name(name)] = None
    if names_by_setting:
        words = "; ".join(f"{setting} for {', '.join(names)}" for setting, names in names_by_setting.items())
        yield f"- **left out, as the model does not take it**: {words} (column `dropped_settings`)"


def _origin_lines(run: Run) -> Iterator[str]:
    """Yield a line for each provider on who answered, where that is not simply the model that was asked for."""
    for name, found in origins.count_origins(run).items():
        if [(origin.model, origin.upstream) for origin in found] == [(name.partition(":")[2], None)]:
            continue
        total = sum(origin.count for origin in found)
        words = ", ".join(f"{origin} ({origin.count} of {total})" for origin in found)
        yield f"- {display_name(name)} was answered by: {words} (columns `model_served`, `provider_served`)"


def _peer_address_lines(run: Run) -> Iterator[str]:
    """Yield a line for each provider and transport whose connections were not all taken by the same address."""
    cells = trial_names.add_name_column(run.trials).groupby(["name", "transport"])
    for (name, _), addresses in cells["peer_address"]:
        counts = addresses.dropna().value_counts()
        if len(counts) > 1:
            words = ", ".join(f"{address} ({count} of {counts.sum()})" for address, count in counts.items())
            yield f"- {display_name(str(name))} was reached at different addresses: {words} (column `peer_address`)"


def _server_timing_lines(run: Run) -> Iterator[str]:
    """Yield a line for each provider that reports its own timings: its time to the first token beside ours."""
    parts = ["server_queue_s", "server_load_s", "server_prefill_s"]
    is_known = run.trials["server_prefill_s"].notna() & run.trials["ttft_s"].notna()
    rows = run.trials.loc[is_known, ["provider", "model", "ttft_s", *parts]]
    names = rows["provider"].astype("string") + (":" + rows["model"].astype("string")).fillna("")
    for name, found in rows.groupby(names):
        server_s, ours_s = found[parts].fillna(0.0).sum(axis=1), found["ttft_s"]
        reported, measured = formatting.format_ms(server_s.median()), formatting.format_ms(ours_s.median())
        yield (
            f"- outside check: {display_name(str(name))} itself reports {reported} ms to the first token (waiting, "
            f"loading, prompt; median of {len(found)}); TTFT measured here: {measured} ms; network and all else: "
            f"{formatting.format_ms((ours_s - server_s).median())} ms"
        )


def _uses_service(run: Run) -> bool:
    """Return whether trials went through the service; False for a load test, which describes its service itself."""
    service_transports = set(map(transport_kind, run.manifest["scenario"]["transport"])) & set(TRANSPORTS[1:])
    return bool(service_transports) and "kind" not in run.manifest


def _service_note(run: Run) -> Iterator[str]:
    if _uses_service(run):
        url = run.manifest["scenario"].get("url")
        service = f"the service at {url}" if url else "a service started for this run, with no limits"
        yield f"- over the transports: {service}; retries, fallbacks and strategies are its own"


def _recording_notes(run: Run, facts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"- **what if**: {run.manifest.get('recordings')} recorded streams replayed through the strategies by "
        "computation; no request was sent, nothing was paid, and arrivals are as recorded"
    )
    yield f"- recorded from: {', '.join(display_name(name) for name in facts['providers'])}"
    yield f"- strategies: {', '.join(facts['strategies'])}"


def _load_text(facts: dict[str, Any]) -> str:
    if facts.get("sweep_to"):
        return f"a search from 1 to at most {facts['sweep_to']} at a time, closed loops"
    if levels := facts.get("levels"):
        words, unit = ("closed", "at a time") if facts.get("rate") is None else ("open", "starts/s")
        return f"{words} loops of {', '.join(f'{level:g}' for level in levels)} {unit}"
    if facts.get("rate") is None:
        return f"closed loop, {facts['concurrency']} at a time"
    if facts.get("trace"):
        return f"open loop, {facts['rate']:g} starts/s on average, arrivals as in the trace"
    bursts = f", burstiness {facts['burstiness']:g}" if facts.get("burstiness") is not None else ""
    return f"open loop, {facts['rate']:g} starts/s, arrivals {facts.get('arrivals') or 'unknown'}{bursts}"


def _reached_load_text(load: dict[str, Any]) -> str:
    if load.get("shortfall"):
        at = f" at {load['level']:g}" if load.get("level") is not None else ""
        return f"**the load was not reached**{at}: {load['shortfall']}"
    if "asked_rate_per_s" in load:
        starts, due = formatting.exact(load.get("starts_per_s")), formatting.exact(load.get("drawn_rate_per_s"))
        return (
            f"load reached: {starts} starts/s ({due} scheduled), the latest "
            f"{formatting.format_ms(load.get('latest_start_s'))} ms late; at most {load['concurrency_max']} under way"
        )
    return f"load reached: {load['concurrency_max']} at a time"


def _start_delay_notes(run: Run) -> Iterator[str]:
    """Yield how late the requests of an open loop were sent, and whether their connections were open by then."""
    trials = run.trials
    if run.manifest["scenario"].get("rate") is None or "start_delay_s" not in trials:
        return
    delay_s, ahead_s = trials["start_delay_s"].dropna(), trials["connect_ahead_s"].dropna()
    if not len(delay_s):
        return
    median, p99, most = (formatting.format_ms(float(delay_s.quantile(share))) for share in (0.5, 0.99, 1.0))
    ahead = f"; {(ahead_s > 0).sum()} of {len(trials)} had their connection opened before" if len(ahead_s) else ""
    yield f"- requests sent {median} ms after they were due (p99 {p99}, at most {most} ms){ahead}"


def _loop_lag_notes(run: Run) -> Iterator[str]:
    """Yield a line on the event-loop lag of the instrument, and whether it can affect the timestamps."""
    lag_s = run.trials["loop_lag_max_s"].dropna()
    if not len(lag_s):
        return
    by_kernel = run.trials["stamp_source"].dropna().eq("kernel").all()
    yield (
        "- worst event-loop lag of the measuring process during a trial: median "
        f"{formatting.format_ms(lag_s.median())} ms, maximum {formatting.format_ms(lag_s.max())} ms: "
        + (
            "it affects no metric, because the kernel timestamps what arrives meanwhile"
            if by_kernel
            else "not an error bar, but a timestamp that this program takes itself can be late by as much"
        )
    )


def _other_measurement_notes(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a line on each provider that was not measured on timestamped sockets, with the reason."""
    reasons: dict[str, str] = {}
    for sitting in facts.get("instrument", []):
        reasons |= sitting.get("measured_otherwise", {})
    for name, reason in reasons.items():
        yield f"- {name}: timed in the pipeline of this process, because {reason} (`stamp_source`: in-process)"


def disturbance_note(run: Run) -> str | None:
    """Return a note on the trials that the instrument itself disturbed; None if there are none."""
    merged_reads = run.trials.loc[run.trials["disturbed"].fillna(False), "merged_reads"]
    if not len(merged_reads):
        return None
    merged = int((merged_reads.fillna(0) > 0).sum())
    why = [f"{merged} had reads that may contain several sends, with the timestamp of the last one"] if merged else []
    if late := len(merged_reads) - merged:
        why.append(
            f"{late} had timestamps taken by the event loop, which was over "
            f"{formatting.format_ms(interference.DISTURBED_LAG_S)} ms late"
        )
    return f"{len(merged_reads)} of {len(run.trials)} trials were disturbed by the instrument itself: {'; '.join(why)}"


def _timestamp_notes(run: Run) -> Iterator[str]:
    """Yield lines on the error of the timestamps: of the sockets', of those in this process, and of a browser's."""
    sources = run.trials["stamp_source"].dropna().tolist()
    others = [source for source in sources if source not in painting.TIMESTAMP_SOURCES]
    if others or not sources:
        yield from calibration.report_lines(run.manifest, others)
    yield from painting.painting_error_lines(run.manifest, run.trials)


def _source_notes(run: Run) -> Iterator[str]:
    """Yield lines on the transports of a run for which the arrival from the provider is known, and is not."""
    if "kind" in run.manifest:  # a load test or a replay, which have no such end
        return
    is_beyond = (run.trials["outcome"] == "completed") & run.trials["transport"].ne(IN_PROCESS)
    known = (
        run.trials.loc[is_beyond, ["transport", "delay_mean_s"]]
        .groupby("transport", observed=True)["delay_mean_s"]
        .count()
        > 0
    )
    if names := ", ".join(known.index[known]):
        yield (
            f"- arrival from the provider over {names}: as the pipeline of the service saw it, on this machine's "
            "CLOCK_MONOTONIC; not the kernel's timestamp, so that it can be late by the lag of the service's event loop"
        )
    if names := ", ".join(known.index[~known]):
        yield (
            f"- arrival from the provider over {names}: not known (only a service that the run starts says it, with "
            "`--record` or a browser among the transports): `source_s` and `delay_*` are empty"
        )


def describe_provenance(run: Run) -> Iterator[str]:
    """Yield lines on the instrument, prices, dates, machine and versions."""
    facts = run.manifest
    dates = sorted(run.trials["price_date"].dropna().unique())
    sources = sorted(run.trials["price_source"].dropna().unique())
    if run.is_replay:
        yield "- delivery is computed from the timestamps of the recordings, and has only their error"
    else:
        yield from _timestamp_notes(run)
        yield from _source_notes(run)
    yield from _other_measurement_notes(facts)
    yield from _loop_lag_notes(run)
    yield from _server_timing_lines(run)
    if (words := disturbance_note(run)) is not None:
        yield f"- **{words}** (column `disturbed`)"
    if sources:
        yield f"- prices: {', '.join(sources)}; price date: {', '.join(dates) or 'not known'}"
    else:
        yield "- prices: none known"
    if facts.get("max_cost_usd") is not None:
        charged = facts.get("charged_usd", formatting.UNKNOWN)
        yield (
            f"- maximum cost: {facts['max_cost_usd']} USD; charged: {charged} USD, including warm-up, with unknown "
            "costs at their upper bound"
        )
    yield f"- started {facts.get('started_at') or 'unknown'}, finished {facts.get('finished_at') or 'not'}"
    machine = facts.get("machine", {})
    shown = dict(machine)
    if isinstance(memory := shown.pop("memory_bytes", None), int):
        shown["memory"] = f"{memory / 1e9:.1f} GB"
    yield from (f"- {to_markdown(key.replace('_', ' '))}: {value}" for key, value in shown.items() if value is not None)
    versions = ", ".join(f"{to_markdown(name)} {version}" for name, version in facts.get("versions", {}).items())
    if versions:
        yield f"- versions: {versions}"
    if facts.get("git_commit"):
        yield f"- commit: {facts['git_commit']}"
