"""The command `run`: asks, measures, makes the report, and says what came of it."""

import argparse
import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from evaluation import calibration, command, manifest, results, resume, scenario
from evaluation.calibration import Calibration
from evaluation.command import Wanted
from evaluation.resume import Start
from evaluation.run import Summary, new_run_id, run
from evaluation.service import service
from evaluation.spending import LEDGER, Budget, spent_before
from providers import Providers
from providers.gguf import find_model
from settings import Settings
from streaming.clock import monotonic
from streaming.errors import UsageError

OUT_OF_BUDGET = 3


def carry_out(asked: argparse.Namespace) -> int:
    """Run what was asked for and give the exit code. Raises UsageError, OSError."""
    wanted = command.wanted(asked)
    if unused := _unused_prices(wanted):
        results.note(f"note: {unused}")
    if wanted.dry_run:
        return asyncio.run(_dry_run(wanted))
    assert wanted.out is not None
    summary = _measure(wanted, wanted.out)
    facts = results.show(wanted.out, plots=wanted.plots)
    kept = f"{summary.trials} of {summary.planned} trials are kept in {wanted.out}"
    if summary.interrupted:
        results.note(f"stopped: {kept}")
    if summary.out_of_budget:
        results.note(f"stopped before more than {wanted.max_cost_usd} USD could be spent: {kept}")
    if summary.shortfall:
        results.note(f"note: {summary.shortfall}")
    facts |= {"interrupted": summary.interrupted, "out_of_budget": summary.out_of_budget}
    facts |= {"shortfall": summary.shortfall} | _held_to(wanted.out, wanted)
    results.last_line(facts)
    return _exit_code(summary, facts)


def _held_to(folder: Path, wanted: Wanted) -> dict[str, Any]:
    """Hold a run to its objectives and say on stderr what was missed, by how much."""
    if not wanted.slo:
        return {}
    from evaluation import slo, tables

    verdicts = slo.check(tables.load(folder), wanted.slo)
    return results.tell(verdicts)


async def _dry_run(wanted: Wanted) -> int:
    from evaluation import dry_run, terminal

    providers = Providers(Settings.from_environment(), prices=wanted.prices)
    try:
        _calibrated(wanted)
        _check_providers(wanted, providers)
        planned = scenario.plan(wanted.scenario)
        if wanted.resume and wanted.out is not None:
            planned = resume.look(wanted.out, wanted.scenario).left
        found = dry_run.shares(wanted.scenario, providers, planned)
        if wanted.max_cost_usd is not None:
            dry_run.require_prices(found)
    finally:
        await providers.aclose()
    terminal.print_table(dry_run.table(found))
    at_most = [share.at_most_usd for share in found if share.at_most_usd is not None]
    total = str(sum(at_most)) if len(at_most) == len(found) else None
    facts = {"dry_run": True, "trials": len(planned), "providers": [share.as_dict() for share in found]}
    results.last_line(facts | {"at_most_usd": total})
    return 0


def _measure(wanted: Wanted, folder: Path) -> Summary:
    settings = Settings.from_environment()
    calibrated = _calibrated(wanted)
    providers = Providers(settings, prices=wanted.prices)
    _check_providers(wanted, providers)
    start = _start(wanted, folder)
    start.facts["instrument_error"] = calibrated.as_dict() if calibrated else None
    start.facts["prices_usd_per_million"] = {name: [str(p) for p in pair] for name, pair in wanted.prices.items()}
    budget = _budget(wanted, providers, start, folder)
    if not wanted.resume:
        manifest.claim(folder)
    ask = partial(run, wanted.scenario, providers, folder, start=start, traces=wanted.record, budget=budget)
    ask = partial(ask, mask=settings.masked, models=_models(wanted, settings))
    with ExitStack() as stack:
        wires = None
        if any(trial.transport in wanted.scenario.wires for trial in start.left):
            from evaluation.service_wires import ServiceWires

            found = stack.enter_context(service(wanted.scenario.url, folder))
            wires = ServiceWires(found.url, settings, monotonic)
        return asyncio.run(_all(ask(service=wires), providers))


async def _all(running: Coroutine[Any, Any, Summary], providers: Providers) -> Summary:
    try:
        return await running
    finally:
        await providers.aclose()


def _models(wanted: Wanted, settings: Settings) -> dict[str, str]:
    """Give the local model's name where it is asked; it is found, or fetched, before the load."""
    if "local" not in wanted.scenario.providers:
        return {}
    with suppress(UsageError):  # the trials say why there is none
        return {"local": find_model(settings).stem}
    return {}


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
    from evaluation import dry_run

    dry_run.require_prices(dry_run.shares(wanted.scenario, providers, start.left))
    ledger = folder / LEDGER
    if start.finished and not ledger.exists():
        raise UsageError(f"{folder} was begun without --max-cost: what it has cost so far is not known")
    return Budget(wanted.max_cost_usd, ledger, spent_before(folder))


def _unused_prices(wanted: Wanted) -> str | None:
    """Say which prices are of nobody who is asked: a slip of the pen would leave the cost unknown, or another's."""
    asked = {name for full in wanted.scenario.providers for name in (full, full.partition(":")[2])}
    unused = [name for name in wanted.prices if name not in asked]
    if not unused:
        return None
    known = ", ".join(wanted.scenario.providers)
    return f"the price of {', '.join(unused)} is not used: write one of {known}, or a model's name alone"


def _calibrated(wanted: Wanted) -> Calibration | None:
    """Read the error bar that was asked for, or the usual one."""
    try:
        return calibration.read(wanted.calibration)
    except UsageError as error:
        recipe = wanted.recipe
        in_file = recipe is not None and wanted.calibration == recipe.values.get("calibration")
        raise UsageError(f"{recipe.where('calibration') if recipe and in_file else ''}{error}") from None


def _check_providers(wanted: Wanted, providers: Providers) -> None:
    """Find a slip of the pen before anybody is asked; whether somebody else's service has a key, only that knows."""
    elsewhere = wanted.scenario.url is not None and scenario.TRANSPORT not in wanted.scenario.transport
    for name in wanted.scenario.providers:
        try:
            _ = providers.rates(name) if elsewhere else providers.route(name)
            if name == "local" and not elsewhere:
                providers.local.check()
            for effort in wanted.scenario.effort:
                providers.check_effort(name, effort)
            for warning in providers.warnings(name):
                results.note(f"warning: {warning}")
        except UsageError as error:
            in_file = wanted.recipe is not None and name in wanted.recipe.values.get("providers", ())
            where = wanted.recipe.where("providers") if in_file and wanted.recipe else ""
            raise UsageError(f"{where}{error}") from None


def _exit_code(summary: Summary, facts: dict[str, Any]) -> int:
    if summary.interrupted:
        return 130
    if summary.out_of_budget:
        return OUT_OF_BUDGET
    return 0 if summary.outcomes["completed"] and facts.get("slo", {}).get("met", True) else 1
