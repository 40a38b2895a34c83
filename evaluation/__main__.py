"""The command line: `python -m evaluation run | replay | compare | report | calibrate`."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import manifest, scenario
from evaluation.cli import arguments as cli_arguments
from evaluation.cli import output, run
from evaluation.escaping import to_line
from evaluation.runner.runner import new_run_id
from streaming.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command and give the exit code."""
    parser = cli_arguments.build_parser()
    asked = parser.parse_args(arguments)
    if asked.command is None:
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
        return commands[asked.command](asked)
    except BrokenPipeError:  # who read the output has read enough
        return 1
    except (UsageError, OSError) as error:
        output.print_note(f"error: {error}")
    except KeyboardInterrupt:
        output.print_note("stopped; of a run, `python -m evaluation report DIR` makes the tables of what is kept")
        return 130
    return 2


def _main_replay(asked: argparse.Namespace) -> int:
    from evaluation.runner import replay

    names = scenario.strategy_names(asked.strategies)
    if not names or len(set(names)) < len(names):
        raise UsageError("strategies: at least one is needed" if not names else "strategies: one is there twice")
    paths = replay.find_traces(asked.traces)
    manifest.create_run_folder(asked.out)
    facts = replay.replay_run(new_run_id(), replay.read_recordings(paths), names, asked.out)
    manifest.write(asked.out, facts)
    output.print_json_line({**output.print_results(asked.out, plots=not asked.no_plots), "recordings": len(paths)})
    return 0


def _main_compare(asked: argparse.Namespace) -> int:
    from evaluation import tables
    from evaluation.analysis import compare, slo
    from evaluation.reports import compare as reports_compare
    from evaluation.reports import terminal

    objectives = slo.parse_slo(asked.slo) if asked.slo is not None else ()
    watched = compare.parse_metrics(asked.fail_if_worse) if asked.fail_if_worse else ()
    a, b = tables.load(asked.a), tables.load(asked.b)
    found = compare.compare(a, b)
    if not found.changes:
        raise UsageError(f"{asked.a} and {asked.b} have no provider × strategy in common that both completed")
    terminal.print_table(reports_compare.comparison_table(found, str(asked.a), str(asked.b)))
    for remark in reports_compare.comparison_notes(found, to_line):
        print(remark)
    if asked.out:
        _write_text(asked.out, reports_compare.comparison_markdown(found, str(asked.a), str(asked.b)))
    worse = [c for c in found.changes if c.verdict == "worse"]
    facts: dict[str, Any] = {"a": str(asked.a), "b": str(asked.b), "worse": len(worse)}
    facts |= {"better": sum(c.verdict == "better" for c in found.changes)}
    facts |= output.print_verdicts(slo.check_objectives(b, objectives)) if objectives else {}
    failing = [f"{c.provider} × {c.strategy}: {c.metric}" for c in worse if c.metric in watched]
    for line in failing:
        output.print_note(f"worse {line}")
    output.print_json_line(facts | {"failing": failing, "changes": [c.as_dict() for c in found.changes]})
    return 1 if failing or not facts.get("slo", {}).get("met", True) else 0


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {file}: {error.strerror}; choose a file that can be written") from None


def _main_report(asked: argparse.Namespace) -> int:
    manifest.require_run(asked.folder)
    output.print_json_line(output.print_results(asked.folder, plots=not asked.no_plots))
    return 0


def _main_calibrate(asked: argparse.Namespace) -> int:
    from evaluation.calibration import runner
    from evaluation.reports import calibration, terminal

    made = runner.calibrate_to_file(runner.parse_options(asked.streams, asked.ways, asked.within_ms), asked.out)
    terminal.print_table(calibration.calibration_table(made))
    for remark in calibration.calibration_notes(made):
        print(remark)
    output.print_json_line({"file": str(asked.out), **made.as_dict()})
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows few characters is no reason to lose a table
    sys.exit(main())
