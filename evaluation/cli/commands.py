"""The commands `run`, `replay`, `compare`, `report` and `calibrate`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import manifest, scenario
from evaluation.cli import arguments as cli_arguments
from evaluation.cli import output, run
from evaluation.cli.run_model import MAX_FAILURES
from evaluation.runner.runner import new_run_id
from settings import InvalidVariablesError, use_one_thread_for_arithmetic
from streaming.errors import UsageError
from streaming.escaping import to_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    use_one_thread_for_arithmetic()
    parser = cli_arguments.build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    commands = {
        "run": run.main_run,
        "replay": _main_replay,
        "compare": _main_compare,
        "report": _main_report,
        "calibrate": _main_calibrate,
    }
    try:
        return commands[options.command](options)
    except BrokenPipeError:  # the reader of the output, for example `head`, has closed the pipe
        return 1
    except InvalidVariablesError as error:
        for problem in error.problems:
            output.print_note(f"error: {problem}")
    except (UsageError, OSError) as error:
        output.print_note(f"error: {error}")
    return 2


def _main_replay(options: argparse.Namespace) -> int:
    from evaluation.runner import replay

    names = scenario.strategy_names(options.strategies)
    if not names or len(set(names)) < len(names):
        raise UsageError(
            "strategies: none is named (name at least one)"
            if not names
            else "strategies: one is repeated (list each once)"
        )
    paths = replay.find_traces(options.traces)
    manifest.create_run_folder(options.out)
    facts = replay.replay_run(new_run_id(), replay.read_recordings(paths), names, options.out)
    manifest.write(options.out, facts)
    finished, facts = output.print_results(options.out, plots=not options.no_plots)
    failing = run.failing_providers(finished, MAX_FAILURES, option="")
    output.print_json_line({**facts, "recordings": len(paths), "failing_providers": failing})
    return 1 if failing or not facts["completed"] else 0


def _main_compare(options: argparse.Namespace) -> int:
    from evaluation.analysis import compare, metric_names, slo, slo_checks
    from evaluation.reports import compare as reports_compare

    objectives = slo.parse_slo(options.slo) if options.slo is not None else ()
    watched = metric_names.parse_metrics(options.fail_if_worse, "--fail-if-worse") if options.fail_if_worse else ()
    primary = metric_names.parse_primary(options.primary) if options.primary else ()
    (a_folder, a_name), (b_folder, b_name) = map(_parse_side, (options.a, options.b))
    label = a_name if a_name == b_name else f"{a_name or 'all of A'} → {b_name or 'all of B'}"
    if (a_name is None) != (b_name is None):
        raise UsageError("compare: one side names a provider (write A:NAME B:NAME, or neither name)")
    a = compare.select_provider(_load_run(a_folder), a_name, str(label))
    b = compare.select_provider(_load_run(b_folder), b_name, str(label))
    result = compare.compare(a, b, watched, primary)
    if not result.changes:
        raise UsageError(
            f"{options.a}, {options.b}: no provider × strategy completed in both (compare runs that share one, or "
            "A:NAME B:NAME)"
        )
    _print_comparison(result, options.a, options.b)
    if options.out:
        _write_text(options.out, reports_compare.comparison_markdown(result, options.a, options.b))
    verdicts = [change.verdict for change in result.changes]
    facts: dict[str, Any] = {"a": options.a, "b": options.b, "worse": verdicts.count("worse")}
    facts |= {"better": verdicts.count("better"), "differences": result.differences}
    facts |= output.print_verdicts(slo_checks.check_objectives(b, objectives)) if objectives else {}
    failing = [f"{c.cell.provider} × {c.cell.strategy}: {c.metric}" for c in result.watched if c.verdict == "worse"]
    untold = [f"{c.cell.provider} × {c.cell.strategy}: {c.metric}" for c in result.watched if c.low is None]
    for word, lines in (("worse", failing), ("too few to tell", untold)):
        for line in lines:
            output.print_note(f"{word} {line}")
    kinds: dict[str, Sequence[Any]] = {"watched": result.watched, "loads": result.loads}
    kinds["changes"] = [change for change in result.changes if change.comparisons]
    changes = {name: [change.as_dict() for change in found] for name, found in kinds.items()}
    output.print_json_line(facts | {"failing": failing, "too_few": untold} | changes)
    outcomes = [*(["missed"] if failing else []), *(["too few"] if untold else [])]
    return output.exit_code_of([*outcomes, facts["slo"]["outcome"]] if objectives else outcomes)


def _print_comparison(result: Any, a: str, b: str) -> None:
    from evaluation.reports import compare as reports_compare
    from evaluation.reports import terminal

    output.print_line(f"A = {to_line(a)}\nB = {to_line(b)}")
    for table in reports_compare.comparison_tables(result):
        terminal.print_table(table)
    for note in reports_compare.comparison_notes(result, to_line):
        output.print_line(note)


def _load_run(folder: Path) -> Any:
    """Return a run, and print a warning for everything that is missing or damaged in its folder."""
    from evaluation import tables

    run = tables.load(folder)
    output.print_journal_faults(folder)
    return run


def _parse_side(text: str) -> tuple[Path, str | None]:
    """Return the folder of one side of a comparison, and the provider after a colon, if there is one."""
    if Path(text).exists():
        return Path(text), None
    for place in (place for place, character in enumerate(text) if character == ":"):
        if Path(text[:place]).is_dir() and text[place + 1 :]:
            return Path(text[:place]), text[place + 1 :]
    return Path(text), None


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {file}: {error.strerror} (choose a file that can be written)") from None


def _main_report(options: argparse.Namespace) -> int:
    manifest.require_run(options.folder)
    _, facts = output.print_results(options.folder, plots=not options.no_plots)
    output.print_json_line(facts)
    return 0


def _main_calibrate(options: argparse.Namespace) -> int:
    from evaluation.calibration import runner
    from evaluation.reports import calibration, terminal

    made = runner.calibrate_to_file(runner.parse_options(options.streams, options.ways, options.within_ms), options.out)
    terminal.print_table(calibration.calibration_table(made))
    for note in calibration.calibration_notes(made):
        output.print_line(note)
    output.print_json_line({"file": str(options.out), **made.as_dict()})
    return 0
