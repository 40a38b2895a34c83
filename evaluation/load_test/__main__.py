"""The command line: `python -m evaluation.load_test run | report | capacity | calibrate | soak`."""

import argparse
import io
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.backends.service_process import running_service
from evaluation.load_test import locust_run
from evaluation.load_test.locust_run import LocustOptions
from streaming.errors import UsageError
from streaming.escaping import to_line

_MAX_USERS = 10_000
_SLO_HELP = (
    "objectives, as in ttft_p95<800ms,icl_p99<150ms,failed<1%%: when one is missed the exit code is "
    "1, with too few answers to tell 4"
)
_DEFAULT_SLO = "failed<1%"
_EPILOG = (
    "All other options are passed to Locust: --provider, --cancel-rate, --shape … (docs/load-testing.md lists them)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 objectives met, 1 missed, 2 usage error, 130 stopped by a signal."""
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
        print(to_line(f"error: {error}"), file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


def _main_run(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo

    objectives = slo.parse_slo(options.slo)
    load, folder = _locust_options(options, options.users), _create_folder(options.out, "load")
    with running_service(options.url, folder, page="gradio" in load.kinds) as service:
        locust_run.run_locust(load, service.url, folder)
    return _print_verdict(folder, objectives, plots=options.plots)


def _main_report(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo

    return _print_verdict(
        options.folder, slo.parse_slo(options.slo) if options.slo is not None else (), plots=options.plots
    )


def _print_verdict(folder: Path, objectives: Sequence[Any], *, plots: bool = True) -> int:
    """Build the report; print the summary, verdicts, folder and JSON line; return the exit code."""
    # Importing pandas takes a second, which must not delay usage errors.
    from evaluation.analysis import slo
    from evaluation.load_test import judge
    from evaluation.reports import terminal

    judged = judge.judge_load_test(folder, objectives, plots=plots)
    terminal.print_summary(judged.run)
    for verdict in judged.verdicts:
        print(to_line(f"slo {verdict}"))
    if judged.verdicts:
        print(f"slo: {judged.outcome if judged.outcome != 'too few' else 'too few answers to tell'}")
    print(f"the report is in {folder}/report.{'html' if plots else 'md'}")
    print(json.dumps(judged.facts))
    return slo.EXIT_CODES[judged.outcome]


def _main_capacity(options: argparse.Namespace) -> int:
    from evaluation.analysis import slo
    from evaluation.load_test import capacity
    from evaluation.reports import terminal

    objectives, kinds = slo.parse_slo(options.slo), _locust_options(options, options.users).kinds
    search, made, folder = (
        capacity.CapacitySearch(options.users, options.most),
        [],
        _create_folder(options.out, "capacity"),
    )
    with running_service(options.url, folder, page="gradio" in kinds) as service:
        for step, run in capacity.run_search(
            search, lambda n: _locust_options(options, n), service.url, objectives, folder
        ):
            terminal.print_summary(run)
            print(step, flush=True)
            made.append(step.facts)
    most = "none" if search.capacity is None else search.capacity
    print(f"most streams at once that meet {options.slo}: {most}; each step's report is in {folder}")
    print(json.dumps({"folder": str(folder), "streams": search.capacity, "slo": options.slo, "steps": made}))
    return 0 if search.capacity else 1


def _main_calibrate(options: argparse.Namespace) -> int:
    from evaluation.load_test import calibrate, judge
    from evaluation.reports import calibration, terminal

    made = calibrate.calibrate(options.streams, options.within_ms, options.out or judge.CALIBRATION_FILE)
    terminal.print_table(calibration.calibration_table(made))
    print(json.dumps({"file": str(options.out or judge.CALIBRATION_FILE), **made.as_dict()}))
    return 0 if made.bar("plain") else 1


def _main_soak(options: argparse.Namespace) -> int:
    from evaluation.load_test import soak

    outcome = soak.run_soak(options.minutes, options.users, _create_folder(options.out, "soak"))
    code = _print_verdict(Path(outcome["folder"]), ()) if outcome["answers"] else 1
    for problem in outcome["problems"]:
        print(to_line(f"soak: {problem}"))
    redis = (
        f"Redis restarted {outcome['redis_restarts']} times"
        if outcome["redis_restarts"] is not None
        else "without Redis"
    )
    print(f"soak: {outcome['answers']} answers, {outcome['resumed']} resumed, {outcome['cancelled']} stopped; {redis}")
    print(f"soak: {'passed: no event lost or repeated, no growth' if not outcome['problems'] else 'failed'}")
    print(json.dumps(outcome))
    return 1 if outcome["problems"] else code


def _locust_options(options: argparse.Namespace, users: int) -> LocustOptions:
    if not 1 <= users <= _MAX_USERS:
        raise UsageError(f"--users: out of range (use 1 to {_MAX_USERS})")
    if options.rate is not None and not 0 < options.rate < 1e6:
        raise UsageError("--rate: not a rate (use a number above 0)")
    if options.processes is not None and options.processes < 1:
        raise UsageError("--processes: too few (use at least 1)")
    kinds = locust_run.parse_kinds(options.kind)
    duration_s = locust_run.parse_duration_s(options.duration)
    return LocustOptions(users, duration_s, kinds, options.rate, options.processes, options.more)


def _create_folder(requested: Path | None, kind: str) -> Path:
    """Create and return the folder `requested`, which must be new or empty, or one named after the current time."""
    folder: Path = requested or Path("out", f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    manifest.create_run_folder(folder)
    return folder


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m evaluation.load_test", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="one load, its report and its verdict", epilog=_EPILOG, allow_abbrev=False)
    run.add_argument("--users", type=int, default=10, metavar="N", help="concurrent users (10)")
    run.add_argument("--slo", metavar="SLO", default=_DEFAULT_SLO, help=f"{_SLO_HELP} (failed<1%%)")
    run.add_argument("--duration", default="60s", metavar="T", help="60s, 2m … (60s)")
    run.add_argument("--no-plots", dest="plots", action="store_false", help="only the tables and report.md")
    _add_common_options(run)
    report = commands.add_parser(
        "report", help="rebuild the rows, tables and report of a load test", allow_abbrev=False
    )
    report.add_argument("folder", type=Path)
    report.add_argument("--slo", metavar="SLO", help=_SLO_HELP)
    report.add_argument("--no-plots", dest="plots", action="store_false", help="only the tables and report.md")
    result = commands.add_parser(
        "capacity", help="find the most concurrent streams that meet an SLO", allow_abbrev=False
    )
    result.add_argument("--slo", metavar="SLO", required=True, help=_SLO_HELP)
    result.add_argument("--users", type=int, default=8, metavar="N", help="users of the first step (8)")
    result.add_argument("--most", type=int, default=4096, metavar="N", help="never try more than this (4096)")
    result.add_argument("--duration", default="15s", metavar="T", help="duration of each step once all users run (15s)")
    _add_common_options(result)
    truth = commands.add_parser(
        "calibrate", help="measure the users' own timing error against a simulator", allow_abbrev=False
    )
    truth.add_argument("--streams", type=int, default=100, metavar="N", help="concurrent streams on one worker (100)")
    truth.add_argument("--within-ms", type=float, default=5.0, metavar="MS", help="largest p99 error to accept (5)")
    truth.add_argument("--out", type=Path, metavar="FILE")
    soak = commands.add_parser(
        "soak", help="long run with fault injection: no loss, no repeats, no growth", allow_abbrev=False
    )
    soak.add_argument("--minutes", type=float, default=30.0, metavar="N", help="duration (30)")
    soak.add_argument("--users", type=int, default=40, metavar="N", help="concurrent users (40)")
    soak.add_argument("--out", type=Path, metavar="DIR")
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", metavar="URL", help="URL of the service (one is started without rate limits)")
    add(
        "--kind",
        default="sse",
        metavar="K",
        help=f"kinds of users, comma-separated: {', '.join(locust_run.USER_KINDS)} (sse)",
    )
    add("--rate", type=float, metavar="R", help="users added per second (all of them, 100 at most)")
    add("--processes", type=int, metavar="N", help="load-generating processes (one per 100 users)")
    add("--out", type=Path, metavar="DIR", help="a new or an empty folder (out/…)")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal with a small character set must not fail the command
    # SIGINT as well: a shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, locust_run.raise_terminated)
    sys.exit(main())
