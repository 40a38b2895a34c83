"""The commands `run`, `report`, `capacity`, `calibrate` and `soak` of `python -m evaluation.load_test`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import manifest
from evaluation.backends.service_process import UNLIMITED_LENGTHS, running_service
from evaluation.cli import output
from evaluation.levels import parse_user_levels
from evaluation.load_test import locust_run
from evaluation.load_test.locust_run import NO_REPORT, LocustOptions
from evaluation.prompts.prompt_file import read_prompts
from evaluation.workloads.workload import SPREADS, WORKLOAD_FORM, Workload, parse_workload
from settings import Settings
from streaming.errors import UsageError
from streaming.escaping import to_line

if TYPE_CHECKING:
    from evaluation.load_test.capacity import SearchStep

_MAX_USERS = 10_000
_FIRST_USERS = 8
_MIN_LEVEL_S = 2
"""Seconds of a level of a sweep, at least: Locust changes the number of users once a second."""
_SLO_HELP = (
    "objectives, as in ttft_p95<800ms,icl_p99<150ms,failed<1%%: when one is missed the exit code is "
    "1, with too few answers to tell 4"
)
_DEFAULT_SLO = "failed<1%"
_LEVELS_HELP = "a sweep instead: numbers of users, each for an equal part of the duration: 1,2,4 or FROM:TO:STEP"
_EPILOG = (
    "All other options are passed to Locust: --provider, --cancel-rate, --shape … (docs/load-testing.md lists them)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 objectives met, 1 missed, 2 usage error, 4 too few answers."""
    parser = _build_parser()
    options, more = parser.parse_known_args(arguments)
    if more and options.command not in ("run", "capacity"):
        parser.error(f"unknown arguments: {' '.join(more)}")
    options.more = tuple(more)
    commands = {
        "run": _main_run,
        "report": _main_report,
        "capacity": _main_capacity,
        "calibrate": _main_calibrate,
        "soak": _main_soak,
    }
    try:
        return commands[options.command](options)
    except (UsageError, OSError) as error:
        output.print_note(f"error: {error}")
    return 2


def _main_run(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo

    objectives, workload = slo.parse_slo(options.slo), _parse_workload(options)
    levels = _parse_levels(options)
    load, folder = _locust_options(options, max(levels, default=options.users)), _create_folder(options.out, "load")
    variables = UNLIMITED_LENGTHS if workload else {}
    with running_service(options.url, folder, variables, page="gradio" in load.kinds) as service:
        if workload:
            load = replace(load, more=load.more + _make_workload(workload, options, load, service.url, folder))
        locust_run.run_locust(load, service.url, folder)
    return _print_verdict(folder, objectives, plots=options.plots)


def _parse_levels(options: argparse.Namespace) -> tuple[int, ...]:
    """Return the numbers of users of a sweep, none without one, and pass them on to Locust. Raises UsageError."""
    levels = parse_user_levels(options.levels)
    if levels:
        level_s = locust_run.parse_duration_s(options.duration) / len(levels)
        if level_s < _MIN_LEVEL_S:
            raise UsageError(
                f"--duration: {level_s:.2g} s for each of {len(levels)} levels (use {_MIN_LEVEL_S} s each)"
            )
        options.more += ("--levels", options.levels)
    return levels


def _parse_workload(options: argparse.Namespace) -> Workload | None:
    """Return the workload that is to be asked for, None without one. Raises UsageError."""
    if options.workload is None:
        for name in ("spread", "prompt_count", "tokenizer", "shared_prefix"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')}: belongs to a workload (add --workload)")
        return None
    if options.prompts is not None:
        raise UsageError("--workload: has prompts of its own (leave out --prompts)")
    if options.prompt_count is not None and options.prompt_count < 1:
        raise UsageError("--prompt-count: too few (use at least 1)")
    shared = options.shared_prefix or 0.0
    if not 0 <= shared <= 1:
        raise UsageError("--shared-prefix: not a share (write a number from 0 to 1)")
    return Workload(parse_workload(options.workload, options.spread), shared)


def _make_workload(
    workload: Workload, options: argparse.Namespace, load: LocustOptions, url: str, folder: Path
) -> tuple[str, ...]:
    """Write the prompts of a workload; return the options with which Locust's users take them."""
    from evaluation.load_test.workload import LoadTarget, write_workload

    settings = Settings.from_environment()
    is_openai = load.kinds == ("openai",)
    model = _read_locust_option(load, settings, "--model" if is_openai else "--provider") or "sim:steady"
    name = options.tokenizer or model
    if is_openai and ":" not in name and name != "local":
        name = f"openai:{name}"
    target = LoadTarget(url, model, _read_locust_option(load, settings, "--key"), name)
    file = write_workload(workload, folder, target, settings, options.prompt_count)
    # Only this project's service is known to take it: others may reject the field.
    fixed_length = () if options.url is not None and is_openai else ("--ignore-eos",)
    return "--prompts", str(file.absolute()), "--fresh", *fixed_length


def _read_locust_option(load: LocustOptions, settings: Settings, option: str) -> str | None:
    """Return the value of an option that is passed to Locust, by the command line or the environment."""
    words = [part for word in load.more for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    return dict(pairwise(words)).get(option) or settings.get(f"LOAD_{option[2:].upper()}")


def _main_report(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo

    return _print_verdict(
        options.folder, slo.parse_slo(options.slo) if options.slo is not None else (), plots=options.plots
    )


def _print_verdict(folder: Path, objectives: Sequence[Any], *, plots: bool = True) -> int:
    """Build the report; print the summary, verdicts, folder and JSON line; return the exit code."""
    # Importing pandas takes a second, which must not delay usage errors.
    from evaluation.analysis import slo_checks
    from evaluation.load_test import judge
    from evaluation.reports import terminal

    judged = judge.judge_load_test(folder, objectives, plots=plots)
    terminal.print_summary(judged.run, judged.findings)
    for line in output.failure_reasons(judged.run.trials):
        output.print_note(line)
    for verdict in judged.verdicts:
        output.print_line(to_line(f"slo {verdict}"))
    if judged.verdicts:
        output.print_line(f"slo: {judged.outcome if judged.outcome != 'too few' else 'too few answers to tell'}")
    for line in judged.knees:
        output.print_line(to_line(line))
    output.print_line(f"the report is in {folder}/report.{'html' if plots else 'md'}")
    output.print_json_line(judged.facts)
    return slo_checks.EXIT_CODES[judged.outcome]


def _main_capacity(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo
    from evaluation.load_test import capacity
    from evaluation.reports import terminal

    _check_search_options(options)
    objectives = slo.parse_slo(options.slo) if options.slo is not None else ()
    workload, first = _parse_workload(options), _FIRST_USERS if options.users is None else options.users
    load = _locust_options(options, 1 if options.sweep else first)
    search: capacity.Search = (
        capacity.KneeSearch(options.most) if options.sweep else capacity.CapacitySearch(first, options.most)
    )
    folder = _create_folder(options.out, "capacity")
    steps: list[SearchStep] = []
    variables = UNLIMITED_LENGTHS if workload else {}
    with running_service(options.url, folder, variables, page="gradio" in load.kinds) as service:
        if workload:
            options.more += _make_workload(workload, options, load, service.url, folder)
        for step, judged in capacity.run_search(
            search, lambda n: _locust_options(options, n), service.url, objectives, folder
        ):
            terminal.print_summary(judged.run, judged.findings)
            output.print_line(str(step))
            sys.stdout.flush()
            steps.append(step)
    _print_search(options, folder, steps, search.capacity)
    return 0 if search.capacity else 1


def _check_search_options(options: argparse.Namespace) -> None:
    """Raise UsageError for options of the command `capacity` that do not go together."""
    if not options.sweep and options.slo is None:
        raise UsageError("--slo: missing (name the objectives, or add --sweep to look for the knee)")
    if any(word.partition("=")[0] in ("--levels", "--shape") for word in options.more):
        raise UsageError("--levels, --shape: the search decides on the load (leave them out, or use the command run)")
    if options.sweep and options.users is not None:
        raise UsageError("--users: a sweep begins with one stream (leave it out)")


def _print_search(
    options: argparse.Namespace, folder: Path, steps: "Sequence[SearchStep]", streams: int | None
) -> None:
    """Write the report of all steps, and print the result of the search and the JSON line."""
    from evaluation.analysis.knee import find_knees
    from evaluation.load_test import capacity
    from evaluation.reports import sweep

    levels = capacity.write_sweep(folder, steps).levels
    knees = find_knees(levels)
    output.print_line(to_line(sweep.headline(knees)))
    sought = "fewest streams at once that deliver nearly as much as any" if options.sweep else "most streams at once"
    sought += "" if options.sweep else f" that meet {options.slo}"
    output.print_line(f"{sought}: {'none' if streams is None else streams}; the report is {folder}/report.html")
    facts = {"folder": str(folder), "streams": streams, "slo": options.slo}
    made = {"steps": [step.facts for step in steps], "load": [level.as_dict() for level in levels]}
    output.print_json_line(facts | made | {"knees": [knee.as_dict() for knee in knees]})


def _main_calibrate(options: argparse.Namespace) -> int:
    from evaluation.load_test import calibrate, judge
    from evaluation.reports import calibration, terminal

    file, duration_s = options.out or judge.CALIBRATION_FILE, locust_run.parse_duration_s(options.duration)
    made = calibrate.calibrate(options.streams, options.within_ms, duration_s, file)
    terminal.print_table(calibration.calibration_table(made))
    output.print_json_line({"file": str(file), **made.as_dict()})
    return 0 if made.bar("plain") else 1


def _main_soak(options: argparse.Namespace) -> int:
    from evaluation.load_test import soak

    outcome = soak.run_soak(options.minutes, options.users, _create_folder(options.out, "soak"))
    code = _print_verdict(Path(outcome["folder"]), ()) if outcome["answers"] else 1
    for problem in outcome["problems"]:
        output.print_line(to_line(f"soak: {problem}"))
    redis = (
        f"Redis restarted {outcome['redis_restarts']} times"
        if outcome["redis_restarts"] is not None
        else "without Redis"
    )
    output.print_line(
        f"soak: {outcome['answers']} answers, {outcome['resumed']} resumed, {outcome['cancelled']} stopped; {redis}"
    )
    output.print_line(
        f"soak: {'passed: no event lost or repeated, no growth' if not outcome['problems'] else 'failed'}"
    )
    output.print_json_line(outcome)
    return 1 if outcome["problems"] else code


def _locust_options(options: argparse.Namespace, users: int) -> LocustOptions:
    if not 1 <= users <= _MAX_USERS:
        raise UsageError(f"--users: out of range (use 1 to {_MAX_USERS})")
    if options.rate is not None and not 0 < options.rate < 1e6:
        raise UsageError("--rate: not a rate (use a number above 0)")
    if options.processes is not None and options.processes < 1:
        raise UsageError("--processes: too few (use at least 1)")
    if NO_REPORT in options.more:
        raise UsageError(f"{NO_REPORT}: not for this command, which gives a verdict (--no-plots makes a short report)")
    kinds = locust_run.parse_kinds(options.kind)
    duration_s = locust_run.parse_duration_s(options.duration)
    more = options.more
    if options.prompts is not None:
        read_prompts(options.prompts)  # an error is reported before the service is started
        name = str(options.prompts)
        more += ("--prompts", str(options.prompts.absolute()) if options.prompts.exists() else name)
    return LocustOptions(users, duration_s, kinds, options.rate, options.processes, more)


def _create_folder(requested: Path | None, kind: str) -> Path:
    """Create and return the folder `requested`, which must be new or empty, or one named after the current time."""
    folder: Path = requested or manifest.default_run_folder(kind)
    manifest.create_run_folder(folder)
    return folder


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m evaluation.load_test", description="Load tests with Locust.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="one load, its report and its verdict", epilog=_EPILOG, allow_abbrev=False)
    _add_run_options(run)
    report = commands.add_parser(
        "report", help="rebuild the rows, tables and report of a load test", allow_abbrev=False
    )
    report.add_argument("folder", type=Path)
    report.add_argument("--slo", metavar="SLO", help=_SLO_HELP)
    report.add_argument("--no-plots", dest="plots", action="store_false", help="only the tables and report.md")
    result = commands.add_parser(
        "capacity", help="find the most concurrent streams that meet an SLO, or the knee", allow_abbrev=False
    )
    result.add_argument("--slo", metavar="SLO", help=_SLO_HELP)
    result.add_argument(
        "--sweep", action="store_true", help="find the knee instead: from one stream until hardly more is delivered"
    )
    result.add_argument("--users", type=int, metavar="N", help=f"users of the first step ({_FIRST_USERS})")
    result.add_argument("--most", type=int, default=4096, metavar="N", help="never try more than this (4096)")
    result.add_argument("--duration", default="15s", metavar="T", help="duration of each step once all users run (15s)")
    _add_common_options(result)
    truth = commands.add_parser(
        "calibrate", help="measure the users' own timing error against a simulator", allow_abbrev=False
    )
    truth.add_argument("--streams", type=int, default=100, metavar="N", help="concurrent streams on one worker (100)")
    truth.add_argument("--duration", default="8s", metavar="T", help="duration of the load (8s)")
    truth.add_argument("--within-ms", type=float, default=5.0, metavar="MS", help="largest p99 error to accept (5)")
    truth.add_argument("--out", type=Path, metavar="FILE")
    soak = commands.add_parser(
        "soak", help="long run with fault injection: no loss, no repeats, no growth", allow_abbrev=False
    )
    soak.add_argument("--minutes", type=float, default=30.0, metavar="N", help="duration (30)")
    soak.add_argument("--users", type=int, default=40, metavar="N", help="concurrent users (40)")
    soak.add_argument("--out", type=Path, metavar="DIR")
    return parser


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--users", type=int, default=10, metavar="N", help="concurrent users (10)")
    run.add_argument("--levels", default="", metavar="N,M…", help=_LEVELS_HELP)
    run.add_argument("--slo", metavar="SLO", default=_DEFAULT_SLO, help=f"{_SLO_HELP} (failed<1%%)")
    run.add_argument("--duration", default="60s", metavar="T", help="60s, 2m … (60s)")
    run.add_argument("--no-plots", dest="plots", action="store_false", help="only the tables and report.md")
    _add_common_options(run)


def _add_workload_options(add: Callable[..., object]) -> None:
    add(
        "--workload", metavar="IN/OUT,…", help=f"generated prompts by tokens, {WORKLOAD_FORM}, or chat, rag, long, code"
    )
    add("--spread", choices=SPREADS, help="distribution of a workload's lengths (normal; of names lognormal)")
    words = "share of each text that is the same in all of its shape, for a cache, as in 0.8 (0)"
    add("--shared-prefix", type=float, metavar="SHARE", help=words)
    add("--prompt-count", type=int, metavar="N", help="prompts of each shape of a workload (24)")
    words = "provider whose tokenizer measures a workload, as in llama-server:NAME (that of the requests)"
    add("--tokenizer", metavar="NAME", help=words)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", metavar="URL", help="URL of the service (one is started without rate limits)")
    add(
        "--kind",
        default="sse",
        metavar="K",
        help=f"kinds of users, comma-separated: {', '.join(locust_run.USER_KINDS)} (sse)",
    )
    add(
        "--prompts", type=Path, metavar="FILE", help="one a line, or JSONL with id and prompt (prompts of this project)"
    )
    add("--rate", type=float, metavar="R", help="users added per second (all of them, 100 at most)")
    add("--processes", type=int, metavar="N", help="load-generating processes (one per 100 users)")
    add("--out", type=Path, metavar="DIR", help="a new or an empty folder (out/…)")
    _add_workload_options(add)
