"""The command line: `python -m evaluation run | replay | compare | report | calibrate`."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import command, manifest, results, run_command, scenario
from evaluation.escaping import to_line
from evaluation.run import new_run_id
from streaming.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command and give the exit code."""
    parser = command.parser()
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help(sys.stderr)
        return 2
    commands = {
        "run": run_command.carry_out,
        "replay": _replay,
        "compare": _compare,
        "report": _report,
        "calibrate": _calibrate,
    }
    try:
        return commands[asked.command](asked)
    except BrokenPipeError:  # who read the output has read enough
        return 1
    except (UsageError, OSError) as error:
        results.note(f"error: {error}")
    except KeyboardInterrupt:
        results.note("stopped; of a run, `python -m evaluation report DIR` makes the tables of what is kept")
        return 130
    return 2


def _replay(asked: argparse.Namespace) -> int:
    from evaluation import whatif

    names = scenario.strategy_names(asked.strategies)
    if not names or len(set(names)) < len(names):
        raise UsageError("strategies: at least one is needed" if not names else "strategies: one is there twice")
    paths = whatif.find(asked.traces)
    manifest.claim(asked.out)
    facts = whatif.run(new_run_id(), whatif.read(paths), names, asked.out)
    manifest.write(asked.out, facts)
    results.last_line({**results.show(asked.out, plots=not asked.no_plots), "recordings": len(paths)})
    return 0


def _compare(asked: argparse.Namespace) -> int:
    from evaluation import compare, compare_report, slo, tables, terminal

    objectives = slo.parse(asked.slo) if asked.slo is not None else ()
    watched = compare.metrics(asked.fail_if_worse) if asked.fail_if_worse else ()
    a, b = tables.load(asked.a), tables.load(asked.b)
    found = compare.compare(a, b)
    if not found.changes:
        raise UsageError(f"{asked.a} and {asked.b} have no provider × strategy in common that both completed")
    terminal.print_table(compare_report.table(found, str(asked.a), str(asked.b)))
    for remark in compare_report.remarks(found, to_line):
        print(remark)
    if asked.out:
        _write(asked.out, compare_report.markdown(found, str(asked.a), str(asked.b)))
    worse = [c for c in found.changes if c.verdict == "worse"]
    facts: dict[str, Any] = {"a": str(asked.a), "b": str(asked.b), "worse": len(worse)}
    facts |= {"better": sum(c.verdict == "better" for c in found.changes)}
    facts |= results.tell(slo.check(b, objectives)) if objectives else {}
    failing = [f"{c.provider} × {c.strategy}: {c.metric}" for c in worse if c.metric in watched]
    for line in failing:
        results.note(f"worse {line}")
    results.last_line(facts | {"failing": failing, "changes": [c.as_dict() for c in found.changes]})
    return 1 if failing or not facts.get("slo", {}).get("met", True) else 0


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {file}: {error.strerror}; choose a file that can be written") from None


def _report(asked: argparse.Namespace) -> int:
    manifest.require(asked.folder)
    results.last_line(results.show(asked.folder, plots=not asked.no_plots))
    return 0


def _calibrate(asked: argparse.Namespace) -> int:
    from evaluation import calibration_report, calibration_run, terminal

    made = calibration_run.carry_out(calibration_run.wanted(asked.streams, asked.ways, asked.within_ms), asked.out)
    terminal.print_table(calibration_report.table(made))
    for remark in calibration_report.remarks(made):
        print(remark)
    results.last_line({"file": str(asked.out), **made.as_dict()})
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows few characters is no reason to lose a table
    sys.exit(main())
