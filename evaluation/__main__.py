"""The command line: `python -m evaluation run | replay | compare | report | calibrate`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import calibration, command, dry_run, manifest, resume, scenario
from evaluation.command import Wanted
from evaluation.keep import TRACES
from evaluation.record import EVENTS, TRIALS
from evaluation.resume import Start
from evaluation.run import Summary, new_run_id, run
from evaluation.spending import LEDGER, Budget, spent_before
from providers import Providers
from settings import Settings
from streaming.errors import UsageError

OUT_OF_BUDGET = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command and give the exit code."""
    parser = command.parser()
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help(sys.stderr)
        return 2
    commands = {"run": _run, "replay": _replay, "compare": _compare, "report": _report, "calibrate": _calibrate}
    try:
        return commands[asked.command](asked)
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; of a run, `python -m evaluation report DIR` makes the tables of what is kept", file=sys.stderr)
        return 130
    return 2


def _run(asked: argparse.Namespace) -> int:
    wanted = command.wanted(asked)
    if wanted.dry_run:
        return asyncio.run(_dry_run(wanted))
    assert wanted.out is not None
    summary = asyncio.run(_measure(wanted, wanted.out))
    facts = _show(wanted.out, plots=wanted.plots)
    kept = f"{summary.trials} of {summary.planned} trials are kept in {wanted.out}"
    if summary.interrupted:
        print(f"stopped: {kept}", file=sys.stderr)
    if summary.out_of_budget:
        print(f"stopped before more than {wanted.max_cost_usd} USD could be spent: {kept}", file=sys.stderr)
    if summary.shortfall:
        print(f"note: {summary.shortfall}", file=sys.stderr)
    facts |= {"interrupted": summary.interrupted, "out_of_budget": summary.out_of_budget}
    facts |= {"shortfall": summary.shortfall} | _held_to(wanted.out, wanted)
    print(json.dumps(facts))
    return _exit_code(summary, facts)


def _held_to(folder: Path, wanted: Wanted) -> dict[str, Any]:
    """Hold a run to its objectives and say on stderr what was missed, by how much."""
    if not wanted.slo:
        return {}
    from evaluation import slo, tables

    verdicts = slo.check(tables.load(folder), wanted.slo)
    return _tell(verdicts)


def _tell(verdicts: Sequence[Any]) -> dict[str, Any]:
    missed = [str(verdict) for verdict in verdicts if not verdict.met]
    for line in missed:
        print(f"slo {line}", file=sys.stderr)
    print(f"slo: {len(verdicts) - len(missed)} of {len(verdicts)} met", file=sys.stderr)
    return {"slo": {"met": not missed, "checked": len(verdicts), "missed": missed}}


async def _dry_run(wanted: Wanted) -> int:
    providers = Providers(Settings.from_environment(), prices=wanted.prices)
    try:
        _check_providers(wanted, providers)
        planned = scenario.plan(wanted.scenario)
        if wanted.resume and wanted.out is not None:
            planned = resume.look(wanted.out, wanted.scenario).left
        found = dry_run.shares(wanted.scenario, providers, planned)
        if wanted.max_cost_usd is not None:
            dry_run.require_prices(found)
    finally:
        await providers.aclose()
    from evaluation import terminal

    terminal.print_table(dry_run.table(found))
    at_most = [share.at_most_usd for share in found if share.at_most_usd is not None]
    total = str(sum(at_most)) if len(at_most) == len(found) else None
    facts = {"dry_run": True, "trials": len(planned), "providers": [share.as_dict() for share in found]}
    print(json.dumps(facts | {"at_most_usd": total}))
    return 0


async def _measure(wanted: Wanted, folder: Path) -> Summary:
    settings = Settings.from_environment()
    calibrated = calibration.read(wanted.calibration)
    providers = Providers(settings, prices=wanted.prices)
    try:
        _check_providers(wanted, providers)
        start = _start(wanted, folder)
        start.facts["instrument_error"] = calibrated.as_dict() if calibrated else None
        start.facts["prices_usd_per_million"] = {name: [str(p) for p in pair] for name, pair in wanted.prices.items()}
        budget = _budget(wanted, providers, start, folder)
        if not wanted.resume:
            manifest.claim(folder)
        return await run(
            wanted.scenario,
            providers,
            folder,
            start=start,
            traces=wanted.record,
            budget=budget,
            mask=settings.masked,
        )
    finally:
        await providers.aclose()


def _start(wanted: Wanted, folder: Path) -> Start:
    if not wanted.resume:
        return resume.begin(new_run_id(), wanted.scenario)
    start = resume.look(folder, wanted.scenario)
    if not start.left:
        raise UsageError(f"{folder} holds a finished run: there is nothing left to resume")
    return start


def _budget(wanted: Wanted, providers: Providers, start: Start, folder: Path) -> Budget | None:
    """Give the ceiling with what earlier sittings were charged, or may have been."""
    if wanted.max_cost_usd is None:
        return None
    dry_run.require_prices(dry_run.shares(wanted.scenario, providers, start.left))
    ledger = folder / LEDGER
    if start.finished and not ledger.exists():
        raise UsageError(f"{folder} was begun without --max-cost: what it has cost so far is not known")
    return Budget(wanted.max_cost_usd, ledger, spent_before(folder))


def _check_providers(wanted: Wanted, providers: Providers) -> None:
    for name in wanted.scenario.providers:
        try:
            providers.route(name)
        except UsageError as error:
            in_file = wanted.recipe is not None and name in wanted.recipe.values.get("providers", ())
            where = wanted.recipe.where("providers") if in_file and wanted.recipe else ""
            raise UsageError(f"{where}{error}") from None


def _replay(asked: argparse.Namespace) -> int:
    from evaluation import whatif

    names = scenario.strategy_names(asked.strategies)
    if not names or len(set(names)) < len(names):
        raise UsageError("strategies: at least one is needed" if not names else "strategies: one is there twice")
    paths = whatif.find(asked.traces)
    manifest.claim(asked.out)
    facts = whatif.run(new_run_id(), whatif.read(paths), names, asked.out)
    manifest.write(asked.out, facts)
    print(json.dumps({**_show(asked.out, plots=not asked.no_plots), "recordings": len(paths)}))
    return 0


def _compare(asked: argparse.Namespace) -> int:
    from evaluation import compare, compare_report, slo, tables, terminal

    objectives = slo.parse(asked.slo) if asked.slo else ()
    watched = compare.metrics(asked.fail_if_worse) if asked.fail_if_worse else ()
    a, b = tables.load(asked.a), tables.load(asked.b)
    found = compare.compare(a, b)
    if not found.changes:
        raise UsageError(f"{asked.a} and {asked.b} have no provider × strategy in common that both completed")
    terminal.print_table(compare_report.table(found, str(asked.a), str(asked.b)))
    for remark in compare_report.remarks(found):
        print(remark)
    if asked.out:
        asked.out.write_text(compare_report.markdown(found, str(asked.a), str(asked.b)), encoding="utf-8")
    worse = [c for c in found.changes if c.verdict == "worse"]
    facts: dict[str, Any] = {"a": str(asked.a), "b": str(asked.b), "worse": len(worse)}
    facts |= {"better": sum(c.verdict == "better" for c in found.changes)}
    facts |= _tell(slo.check(b, objectives)) if objectives else {}
    failing = [f"{c.provider} × {c.strategy}: {c.metric}" for c in worse if c.metric in watched]
    for line in failing:
        print(f"worse {line}", file=sys.stderr)
    print(json.dumps(facts | {"failing": failing, "changes": [c.as_dict() for c in found.changes]}))
    return 1 if failing or not facts.get("slo", {}).get("met", True) else 0


def _report(asked: argparse.Namespace) -> int:
    manifest.require(asked.folder)
    print(json.dumps(_show(asked.folder, plots=not asked.no_plots)))
    return 0


def _calibrate(asked: argparse.Namespace) -> int:
    from evaluation import calibration_report, calibration_run, terminal

    made = calibration_run.carry_out(calibration_run.wanted(asked.streams, asked.ways, asked.within_ms), asked.out)
    terminal.print_table(calibration_report.table(made))
    for remark in calibration_report.remarks(made):
        print(remark)
    print(json.dumps({"file": str(asked.out), **made.as_dict()}))
    return 0


def _show(folder: Path, *, plots: bool) -> dict[str, Any]:
    """Make tables and report, print the table, and give the facts of the last line.

    `failed` counts all that were not completed, `outcomes` tells them apart.
    """
    # pandas takes a second to import: a mistyped command is told at once, and a run begins at once.
    from evaluation import calibration_report, report, tables, terminal

    made = report.rebuild(folder, plots=plots)
    terminal.show(made)
    for warning in calibration_report.warnings(made.manifest, made.trials["stamp_source"].dropna().tolist()):
        print(f"warning: {warning}", file=sys.stderr)
    outcomes = {str(name): int(count) for name, count in made.trials["outcome"].value_counts().items()}
    completed = outcomes.get("completed", 0)
    names = (manifest.MANIFEST, TRIALS, EVENTS, LEDGER, TRACES, *tables.FILES, *report.FILES)
    return {
        "folder": str(folder),
        "run_id": made.manifest.get("run_id"),
        "trials": len(made.trials),
        "completed": completed,
        "failed": len(made.trials) - completed,
        "outcomes": outcomes,
        "files": [name for name in names if (folder / name).exists()],
    }


def _exit_code(summary: Summary, facts: dict[str, Any]) -> int:
    if summary.interrupted:
        return 130
    if summary.out_of_budget:
        return OUT_OF_BUDGET
    return 0 if summary.outcomes["completed"] and facts.get("slo", {}).get("met", True) else 1


if __name__ == "__main__":
    sys.exit(main())
