"""The command line: `python -m providers [--check] [--json]`."""

import argparse
import asyncio
import contextlib
import difflib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from providers.models.facts import RETIRING_DAYS, ModelFacts
from providers.registry import ProviderRegistry
from providers.services import ServiceSpec, example_model_name, missing_variable, resolve_endpoint
from settings import Settings
from streaming.adapter import ListedModel
from streaming.clock import utc_now
from streaming.errors import StreamError, UsageError

LISTING_TIMEOUT_S = 10.0

State = Literal["not ready", "found", "missing", "retiring", "unreachable", "not running", "not listed"]
"""The result of listing a service's models. `not running`: a server on this machine that is not configured and does
not respond. `not listed`: the service has no list of models, or its owner names them."""
_FAULTS: frozenset[State] = frozenset({"missing", "retiring", "unreachable"})


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """The report on one service. `models` is the number of listed models, None when they were not listed."""

    service: str
    label: str
    key: str | None
    ready: bool
    needs: str | None
    example: str
    address: str | None
    checked: date | None
    confirmed: str | None
    state: State = "not ready"
    models: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def is_fault(self) -> bool:
        """Whether the service's example model is missing or retiring, or the service cannot be reached."""
        return self.state in _FAULTS

    def as_dict(self) -> dict[str, Any]:
        """Return the report as an object for JSON."""
        names = ("service", "label", "key", "ready", "needs", "example", "address", "confirmed", "state", "models")
        fields = {name: getattr(self, name) for name in names}
        checked = None if self.checked is None else self.checked.isoformat()
        return fields | {"checked": checked, "notes": list(self.notes), "fault": self.is_fault}


async def survey(providers: ProviderRegistry, settings: Settings, today: date) -> list[ServiceReport]:
    """List the models of every ready service concurrently, and return a report on each service."""
    for row in providers.rows.values():
        with contextlib.suppress(UsageError):
            # Loads the service's SDK, so that this is not part of the time that its list may take.
            providers.route(example_model_name(row))
    return list(
        await asyncio.gather(*(_survey_one(row, providers, settings, today) for row in providers.rows.values()))
    )


async def _survey_one(row: ServiceSpec, providers: ProviderRegistry, settings: Settings, today: date) -> ServiceReport:
    report = _describe(row, providers, settings)
    facts = providers.model_facts(example_model_name(row))
    if not report.ready:
        return _with_retirement(report, row, facts, today)
    known = providers.facts.service(row.provider)
    if known is not None and not known.lists_models:
        return _with_retirement(replace(report, state="not listed"), row, facts, today)
    try:
        async with asyncio.timeout(LISTING_TIMEOUT_S):
            listed = await providers.list_models(row.provider)
    except (StreamError, UsageError, TimeoutError) as error:
        return _with_retirement(_unreachable(report, row, settings, error), row, facts, today)
    report = _with_list(report, row, providers, listed)
    return _with_shutdown_date(_with_retirement(report, row, facts, today), row, listed, today)


def _describe(row: ServiceSpec, providers: ProviderRegistry, settings: Settings) -> ServiceReport:
    missing, known = missing_variable(row, settings), providers.facts.service(row.provider)
    wrong = f"set {missing}"
    try:
        address: str | None = resolve_endpoint(row, settings).base_url
    except UsageError as error:
        address = settings.get(row.base_url_variable) or row.base_url
        if any(map(settings.get, filter(None, (row.key, row.base_url_variable)))):
            wrong = settings.mask_secrets(str(error))
    key = None if row.key is None else f"{row.key} {'set' if settings.get(row.key) else 'not set'}"
    report = ServiceReport(
        row.provider,
        row.label,
        key,
        missing is None,
        missing,
        example_model_name(row),
        address,
        known.checked if known else None,
        known.confirmed if known else None,
    )
    notes = [wrong] if missing else []
    if known is not None and known.confirmed == "unconfirmed":
        notes.append("the example is unconfirmed")
    return replace(report, notes=tuple(notes))


def _unreachable(report: ServiceReport, row: ServiceSpec, settings: Settings, error: Exception) -> ServiceReport:
    if not row.key_required and settings.get(row.base_url_variable) is None:
        return replace(report, state="not running", notes=(*report.notes, f"no server at {report.address}"))
    words = str(error) or f"no list of models within {LISTING_TIMEOUT_S:g} s"
    return replace(report, state="unreachable", notes=(*report.notes, words))


def _with_list(
    report: ServiceReport, row: ServiceSpec, providers: ProviderRegistry, listed: list[ListedModel]
) -> ServiceReport:
    known = providers.facts.service(row.provider)
    if not listed or (known is not None and known.example_is_placeholder):
        return replace(report, state="not listed", models=len(listed) or None)
    if _find(row.example, listed) is not None:
        return replace(report, state="found", models=len(listed))
    near = difflib.get_close_matches(row.example, [model.name for model in listed], n=3, cutoff=0.0)
    words = f"{row.example} is not listed (the nearest names are {', '.join(near)})"
    return replace(report, state="missing", models=len(listed), notes=(*report.notes, words))


def _with_retirement(report: ServiceReport, row: ServiceSpec, facts: ModelFacts, today: date) -> ServiceReport:
    """Return the report with the example's known retirement. Only a ready service changes to `retiring`."""
    words = facts.describe_retirement(row.example, today)
    if words is None:
        return report
    state: State = "retiring" if report.ready and facts.is_retiring(today) else report.state
    return replace(report, state=state, notes=(*report.notes, words))


def _with_shutdown_date(
    report: ServiceReport, row: ServiceSpec, listed: list[ListedModel], today: date
) -> ServiceReport:
    """Return the report with the example's shutdown date from the service's own list."""
    model = _find(row.example, listed)
    if model is None or model.shutdown_date is None:
        return report
    try:
        day = date.fromisoformat(model.shutdown_date[:10])
    except ValueError:
        return replace(report, notes=(*report.notes, f"shutdown date: {model.shutdown_date[:40]}"))
    words = f"{row.example}: its service announces a shutdown on {day.isoformat()}"
    near = (day - today).days <= RETIRING_DAYS
    return replace(report, state="retiring" if near else report.state, notes=(*report.notes, words))


def _find(name: str, listed: list[ListedModel]) -> ListedModel | None:
    """Return the listed model of a name, None when there is none. Gemini lists `models/NAME`, Ollama `NAME:latest`."""
    spellings = {name.lower(), f"models/{name}".lower(), f"{name}:latest".lower()}
    return next((model for model in listed if model.name.lower() in spellings), None)


def to_table(reports: list[ServiceReport]) -> Table:
    """Return a table with one row for each service, which fits 80 columns; names are folded, never cut."""
    table = Table(title="Services", caption="--json has their keys, addresses and dates too")
    table.add_column("service and example model", overflow="fold", min_width=_MIN_NAME)
    table.add_column("models", justify="right", no_wrap=True)
    table.add_column("notes", overflow="fold")
    for report in reports:
        models = "–" if report.models is None else str(report.models)
        state = () if report.state in ("not ready", "found") else (report.state,)
        table.add_row(report.example, models, "; ".join((*state, *report.notes)))
    return table


def to_json(reports: list[ServiceReport]) -> Mapping[str, Any]:
    """Return all reports and the names of the services with faults, for JSON."""
    return {"services": [report.as_dict() for report in reports], "faults": [r.service for r in reports if r.is_fault]}


_MIN_NAME = 32
"""The width of the names' column in columns, however narrow the terminal is."""
WIDTH = 160
"""The table's width in columns when the output is no terminal."""
EPILOG = (
    "exit codes: 0 success; 1 with --check, if the example model of a ready service is missing, retired or retiring "
    "soon, or the service cannot be reached; 2 usage error."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the services and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m providers",
        description="Show which services can be used, and list the models of those whose key is set.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when the example model of a ready service cannot be used"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no character that a terminal lacks fails the command
    try:
        reports = asyncio.run(_survey(Settings.from_environment()))
    except UsageError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    if parsed.json:
        print(json.dumps(to_json(reports)))
    else:
        _print_table(reports)
    if not parsed.check:
        return 0
    faults = [report for report in reports if report.is_fault]
    for report in faults:
        print(f"{report.state}: {report.example}: {'; '.join(report.notes)}", file=sys.stderr)
    return 1 if faults else 0


async def _survey(settings: Settings) -> list[ServiceReport]:
    providers = ProviderRegistry(settings)
    try:
        return await survey(providers, settings, date.fromisoformat(utc_now()[:10]))
    finally:
        await providers.aclose()


def _print_table(reports: list[ServiceReport]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(to_table(reports))


if __name__ == "__main__":
    sys.exit(main())
