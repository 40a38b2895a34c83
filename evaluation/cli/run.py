"""The command `run`: sends the requests, measures the answers, builds the report and prints the result."""

import argparse
import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from evaluation import levels, manifest
from evaluation.backends.service_process import UNLIMITED_LENGTHS, running_service
from evaluation.calibration import model
from evaluation.calibration.model import Calibration
from evaluation.cli import arguments, output
from evaluation.cli.arguments import RunOptions
from evaluation.cli.run_model import OWN_SERVICE
from evaluation.runner import resume
from evaluation.runner.budget import COST_PROMISE, LEDGER_FILE, CostCeiling, read_ledger_total
from evaluation.runner.resume import RunState
from evaluation.runner.runner import RunSummary, new_run_id, run
from evaluation.transports import IN_PROCESS
from evaluation.workloads.bodies import TokenizerFinder
from providers import ProviderRegistry
from providers.local.model_file import find_model
from providers.models.lists import ModelLists
from providers.registry import default_timeouts
from providers.tokenizers import Tokenizer, offline_tokenizer
from settings import Settings
from streaming.errors import UsageError
from streaming.garbage import without_garbage_collection
from streaming.precise_loop import run_on_precise_loop

if TYPE_CHECKING:
    from evaluation.tables import Run

OUT_OF_BUDGET_EXIT_CODE = 3


def main_run(parsed: argparse.Namespace) -> int:
    """Run the command `run` and return its exit code.

    Raises UsageError when an option is invalid or the run cannot continue, OSError when a file cannot be written.
    """
    options = arguments.parse_run_options(parsed)
    if unused := _unused_prices_error(options):
        output.print_note(f"note: {unused}")
    if options.dry_run:
        return asyncio.run(_run_dry(options))
    folder = options.out or manifest.default_run_folder("run")
    if options.out is None:
        output.print_note(f"note: --out: not set, so the results are written to {folder}")
    summary = _run_alone(options, folder)
    finished, facts = output.print_results(folder, plots=options.plots)
    kept = f"{summary.trials} of {summary.planned} trials are kept in {folder}"
    if summary.interrupted:
        output.print_note(f"stopped: {kept}")
    if summary.out_of_budget:
        output.print_note(f"stopped at the maximum cost of {options.max_cost_usd} USD ({COST_PROMISE}): {kept}")
    if summary.shortfall:
        output.print_note(f"note: {summary.shortfall}")
    for name, reason in summary.ended_providers.items():
        output.print_note(f"{name}: its part of the run has ended: {reason} (--resume asks for what is left)")
    failing = failing_providers(finished, options.max_failures)
    facts |= {"interrupted": summary.interrupted, "out_of_budget": summary.out_of_budget}
    facts |= {"ended_providers": summary.ended_providers, "failing_providers": failing}
    facts |= {"shortfall": summary.shortfall} | _check_slo(finished, options)
    output.print_json_line(facts)
    return _exit_code(summary, facts)


def failing_providers(finished: "Run", limit: float, option: str = "--max-failures ") -> list[str]:
    """Print each provider of which more trials failed than the limit, a share, and return their names.

    Cancelled trials count neither as failed nor as completed.
    """
    failing = []
    counted = finished.trials[finished.trials["outcome"] != "cancelled"]
    for name, outcomes in counted.groupby("name", observed=True)["outcome"]:
        failed = int(outcomes.ne("completed").sum())
        if failed > limit * len(outcomes):
            output.print_note(f"{name}: {failed} of {len(outcomes)} trials failed, more than {option}{limit:.0%}")
            failing.append(str(name))
    return failing


def _check_slo(finished: "Run", options: RunOptions) -> dict[str, Any]:
    """Check a run against its objectives, print the missed ones to stderr, and return the `slo` field."""
    if not options.slo:
        return {}
    from evaluation.analysis import slo_checks

    result = slo_checks.check_objectives(finished, options.slo)
    return output.print_verdicts(result) if result else {}


async def _run_dry(options: RunOptions) -> int:
    from evaluation.cli import dry_run
    from evaluation.reports import terminal

    providers = ProviderRegistry(Settings.from_environment(), prices=options.prices, timeouts=options.timeouts)
    try:
        _read_calibration(options)
        _check_providers(options, providers)
        await providers.load_prices(options.scenario.providers)
        planned = levels.plan_run(options.scenario)
        if options.resume and options.out is not None:
            planned = resume.inspect_run(options.out, options.scenario, retry_failed=options.retry_failed).left
        estimates = dry_run.estimate_run(options.scenario, providers, planned)
        if options.max_cost_usd is not None:
            dry_run.require_prices(estimates)
    finally:
        await providers.aclose()
    terminal.print_table(dry_run.estimate_table(estimates))
    at_most = [share.at_most_usd for share in estimates if share.at_most_usd is not None]
    total = str(sum(at_most)) if len(at_most) == len(estimates) else None
    facts = {"dry_run": True, "trials": len(planned), "providers": [share.as_dict() for share in estimates]}
    if (power := dry_run.estimate_power(options.scenario)) is not None:
        output.print_line(power.describe())
        facts["power"] = asdict(power)
    output.print_json_line(facts | {"at_most_usd": total})
    return 0


def _run_alone(options: RunOptions, folder: Path) -> RunSummary:
    """Run while no other process writes the run's folder. Raises UsageError while one does."""
    with ExitStack() as stack:
        if options.resume:  # a new run's folder is locked when it has been created
            stack.enter_context(manifest.lock_run(folder))
        return _run_measurement(options, folder, stack)


def _run_measurement(options: RunOptions, folder: Path, stack: ExitStack) -> RunSummary:
    settings = Settings.from_environment()
    calibrated = _read_calibration(options)
    lists = asyncio.run(_load_price_lists(settings, options))
    providers = ProviderRegistry(settings, prices=options.prices, timeouts=options.timeouts, lists=lists)
    with without_garbage_collection():  # the vendors' SDKs are imported
        _check_providers(options, providers)
    start = _prepare_run(options, folder)
    start.facts["timeouts"] = asdict(options.timeouts or default_timeouts(settings))
    start.facts["instrument_error"] = calibrated.as_dict() if calibrated else None
    start.facts["slo"] = [objective.text for objective in options.slo]
    start.facts["primary"] = list(options.primary)
    start.facts["prices_usd_per_million"] = {name: [str(p) for p in pair] for name, pair in options.prices.items()}
    budget = _make_cost_ceiling(options, providers, start, folder)
    if options.scenario.uses_browser:
        from evaluation.backends.browser.chromium import require_chromium

        asyncio.run(require_chromium())
    if not options.resume:
        manifest.create_run_folder(folder)
        stack.enter_context(manifest.lock_run(folder))
    ask = partial(run, options.scenario, providers, folder, start=start, traces=options.record, budget=budget)
    ask = partial(ask, tokenizers=_tokenizers(options, providers))
    ask = partial(ask, mask=settings.mask_secrets, models=_local_model_names(options, settings))
    target = None
    if any(trial.transport in options.scenario.service_transports for trial in start.left):
        from evaluation.backends.base import ServiceTarget

        recordings = None
        variables = dict(UNLIMITED_LENGTHS) if options.scenario.workload or options.scenario.trace else {}
        if options.scenario.url is None and (options.scenario.uses_browser or options.record):
            recordings = Path(stack.enter_context(TemporaryDirectory(prefix="streamgauge-recordings-")))
            variables["RECORDINGS_DIR"] = str(recordings)
        page = any(name.startswith("browser:chat") for name in options.scenario.transport)
        service = stack.enter_context(running_service(options.scenario.url, folder, variables, page=page))
        target = ServiceTarget.from_settings(service.url, settings, recordings)
    _start_scraping(options, folder, settings, start, target.url if target else None, stack)
    return run_on_precise_loop(_run_and_close(ask(service=target), providers))


def _start_scraping(
    options: RunOptions, folder: Path, settings: Settings, start: RunState, service_url: str | None, stack: ExitStack
) -> None:
    """Scrape the server of `--scrape` until the stack is closed. One that does not answer now is tried again later."""
    if options.scrape is None:
        return
    from evaluation.server_metrics import scraper

    url = service_url if options.scrape == OWN_SERVICE else options.scrape
    if url is None:  # what is left of a resumed run is not sent to the service
        return
    url = scraper.metrics_url(url)
    facts = start.facts["scrape"] = asyncio.run(scraper.check_server(url, settings))
    if facts["problem"]:
        output.print_note(f"--scrape {url}: {facts['problem']} (the run goes on, and tries again each second)")
    stack.enter_context(scraper.scraping(url, folder, settings))


def _tokenizers(options: RunOptions, providers: ProviderRegistry) -> TokenizerFinder:
    """Return what measures the texts of a workload; of a local model elsewhere nothing is known."""

    async def find_tokenizer(name: str) -> Tokenizer:
        is_elsewhere = options.scenario.url is not None and IN_PROCESS not in options.scenario.transport
        return offline_tokenizer(None) if is_elsewhere and name == "local" else await providers.find_tokenizer(name)

    return find_tokenizer


async def _load_price_lists(settings: Settings, options: RunOptions) -> ModelLists:
    """Return the routers' price lists, loaded before the run so that every trial is priced alike."""
    providers = ProviderRegistry(settings)
    try:
        await providers.load_prices(options.scenario.providers)
    finally:
        await providers.aclose()
    return providers.lists


async def _run_and_close(running: Coroutine[Any, Any, RunSummary], providers: ProviderRegistry) -> RunSummary:
    try:
        return await running
    finally:
        await providers.aclose()


def _local_model_names(options: RunOptions, settings: Settings) -> dict[str, str]:
    """Return the local model's name if the run uses it. The model is found, or downloaded, before the load starts."""
    if "local" not in options.scenario.providers:
        return {}
    with suppress(UsageError):  # the trials report why there is no model
        return {"local": find_model(settings).stem}
    return {}


def _prepare_run(options: RunOptions, folder: Path) -> RunState:
    if not options.resume:
        return resume.new_run(new_run_id(), options.scenario)
    start = resume.inspect_run(folder, options.scenario, retry_failed=options.retry_failed)
    if not start.left:
        raise UsageError(
            f"{folder} holds a finished run: there is nothing left to resume (ask for more --repeats or prompts, or "
            "choose another folder)"
        )
    return start


def _make_cost_ceiling(
    options: RunOptions, providers: ProviderRegistry, start: RunState, folder: Path
) -> CostCeiling | None:
    """Return the cost ceiling, with the amounts charged or possibly charged before the run was resumed."""
    if options.max_cost_usd is None:
        return None
    from evaluation.cli import dry_run

    dry_run.require_prices(dry_run.estimate_run(options.scenario, providers, start.left))
    ledger = folder / LEDGER_FILE
    if start.finished and not ledger.exists():
        raise UsageError(
            f"{folder}: started without --max-cost, so its cost so far is unknown (resume without --max-cost)"
        )
    return CostCeiling(options.max_cost_usd, ledger, read_ledger_total(folder))


def _unused_prices_error(options: RunOptions) -> str | None:
    """Return a note on prices that match no provider: after a typing error the cost would be unknown or wrong."""
    names = {name for full in options.scenario.providers for name in (full, full.partition(":")[2])}
    unused = [name for name in options.prices if name not in names]
    if not unused:
        return None
    known = ", ".join(options.scenario.providers)
    return f"--price: not used for {', '.join(unused)} (write one of {known}, or a model name alone)"


def _read_calibration(options: RunOptions) -> Calibration | None:
    """Read the calibration file of `--calibration`, or the default one. Raises UsageError when it is invalid."""
    try:
        return model.read_calibration(options.calibration)
    except UsageError as error:
        scenario_file = options.scenario_file
        in_file = scenario_file is not None and options.calibration == scenario_file.values.get("calibration")
        raise UsageError(
            f"{scenario_file.location_of('calibration') if scenario_file and in_file else ''}{error}"
        ) from None


def _check_providers(options: RunOptions, providers: ProviderRegistry) -> None:
    """Raise UsageError if a provider cannot be used, before any request is sent, and print its warnings.

    API keys are not checked if all requests go to the service at `--url`: it has its own.
    """
    elsewhere = options.scenario.url is not None and IN_PROCESS not in options.scenario.transport
    for name in options.scenario.providers:
        try:
            _ = providers.cost_model(name) if elsewhere else providers.route(name)
            if name == "local" and not elsewhere:
                providers.local_model.validate_file()
            for effort in options.scenario.effort:
                providers.check_effort(name, effort)
            for warning in providers.warnings(name):
                output.print_note(f"warning: {warning}")
        except UsageError as error:
            in_file = options.scenario_file is not None and name in options.scenario_file.values.get("providers", ())
            where = options.scenario_file.location_of("providers") if in_file and options.scenario_file else ""
            raise UsageError(f"{where}{error}") from None


def _exit_code(summary: RunSummary, facts: dict[str, Any]) -> int:
    if summary.interrupted:
        return 130
    if summary.out_of_budget:
        return OUT_OF_BUDGET_EXIT_CODE
    if facts["failing_providers"] or summary.ended_providers or not summary.outcomes["completed"]:
        return 1
    return output.exit_code_of([facts["slo"]["outcome"]] if "slo" in facts else [])
