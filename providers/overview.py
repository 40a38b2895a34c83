"""What there is to ask: each service with its key, its example, the models that it lists, and what should be known."""

import asyncio
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from rich.table import Table

from providers.catalogue import access, full_example, needs
from providers.facts import RETIRING_DAYS, ModelFacts
from providers.rows import Row
from providers.table import Providers
from providers.upstream import ListedModel
from settings import Settings
from streaming.errors import StreamError, UsageError

LISTING_TIMEOUT_S = 10.0

State = Literal["not ready", "found", "missing", "retiring", "unreachable", "not running", "not listed"]
"""What asking for the models came to. `not running`: a server on this machine that nobody set up; `not listed`: the
service lists no models, or its owner names them."""
_FAULTS: frozenset[State] = frozenset({"missing", "retiring", "unreachable"})


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """One service. `models` None: they were not listed; `is_fault`: its example cannot be relied on."""

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
        return self.state in _FAULTS

    def as_dict(self) -> dict[str, Any]:
        """Return it for a program."""
        names = ("service", "label", "key", "ready", "needs", "example", "address", "confirmed", "state", "models")
        found = {name: getattr(self, name) for name in names}
        checked = None if self.checked is None else self.checked.isoformat()
        return found | {"checked": checked, "notes": list(self.notes), "fault": self.is_fault}


async def survey(providers: Providers, settings: Settings, today: date) -> list[ServiceReport]:
    """Ask every ready service for its models, all at once, and report on each."""
    return list(
        await asyncio.gather(*(_survey_one(row, providers, settings, today) for row in providers.rows.values()))
    )


async def _survey_one(row: Row, providers: Providers, settings: Settings, today: date) -> ServiceReport:
    report = _describe(row, providers, settings)
    facts = providers.model_facts(full_example(row))
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


def _describe(row: Row, providers: Providers, settings: Settings) -> ServiceReport:
    missing, known = needs(row, settings), providers.facts.service(row.provider)
    try:
        address: str | None = access(row, settings).base_url
    except UsageError:
        address = settings.get(row.base_url_variable) or row.base_url
    key = None if row.key is None else f"{row.key} {'set' if settings.get(row.key) else 'not set'}"
    report = ServiceReport(
        row.provider,
        row.label,
        key,
        missing is None,
        missing,
        full_example(row),
        address,
        known.checked if known else None,
        known.confirmed if known else None,
    )
    notes = [f"set {missing}"] if missing else []
    if known is not None and known.confirmed == "unconfirmed":
        notes.append("the example is unconfirmed")
    return replace(report, notes=tuple(notes))


def _unreachable(report: ServiceReport, row: Row, settings: Settings, error: Exception) -> ServiceReport:
    if not row.key_required and settings.get(row.base_url_variable) is None:
        return replace(report, state="not running", notes=(*report.notes, f"nothing answers at {report.address}"))
    words = str(error) or f"no list of models within {LISTING_TIMEOUT_S:g} s"
    return replace(report, state="unreachable", notes=(*report.notes, words))


def _with_list(report: ServiceReport, row: Row, providers: Providers, listed: list[ListedModel]) -> ServiceReport:
    known = providers.facts.service(row.provider)
    if not listed or (known is not None and known.example_is_placeholder):
        return replace(report, state="not listed", models=len(listed) or None)
    if _find(row.example, listed) is not None:
        return replace(report, state="found", models=len(listed))
    near = difflib.get_close_matches(row.example, [model.name for model in listed], n=3, cutoff=0.0)
    words = f"{row.example} is not listed (the nearest names are {', '.join(near)})"
    return replace(report, state="missing", models=len(listed), notes=(*report.notes, words))


def _with_retirement(report: ServiceReport, row: Row, facts: ModelFacts, today: date) -> ServiceReport:
    """Add what is known of the example's retirement; a service that is not ready is not at fault."""
    words = facts.describe_retirement(row.example, today)
    if words is None:
        return report
    state: State = "retiring" if report.ready and facts.is_retiring(today) else report.state
    return replace(report, state=state, notes=(*report.notes, words))


def _with_shutdown_date(report: ServiceReport, row: Row, listed: list[ListedModel], today: date) -> ServiceReport:
    """Add the day on which the service itself says that the example is shut down."""
    model = _find(row.example, listed)
    if model is None or model.shutdown_date is None:
        return report
    try:
        day = date.fromisoformat(model.shutdown_date[:10])
    except ValueError:
        return replace(report, notes=(*report.notes, f"shutdown date: {model.shutdown_date[:40]}"))
    words = f"{row.example} is shut down on {day.isoformat()}, as its service says"
    near = (day - today).days <= RETIRING_DAYS
    return replace(report, state="retiring" if near else report.state, notes=(*report.notes, words))


def _find(name: str, listed: list[ListedModel]) -> ListedModel | None:
    """Return the model of a name; Gemini lists `models/NAME`, Ollama `NAME:latest`."""
    wanted = {name.lower(), f"models/{name}".lower(), f"{name}:latest".lower()}
    return next((model for model in listed if model.name.lower() in wanted), None)


def to_table(reports: list[ServiceReport]) -> Table:
    """Return a line for each service."""
    found = Table(title="Services")
    for heading in ("service", "key", "example", "models", "checked", "notes"):
        found.add_column(heading, justify="right" if heading == "models" else "left", overflow="fold")
    for report in reports:
        models = "–" if report.models is None else str(report.models)
        checked = "–" if report.checked is None else f"{report.checked.isoformat()} ({report.confirmed})"
        state = () if report.state in ("not ready", "found") else (report.state,)
        notes = "; ".join((*state, *report.notes))
        found.add_row(report.service, report.key or "none needed", report.example, models, checked, notes)
    return found


def to_json(reports: list[ServiceReport]) -> Mapping[str, Any]:
    """Return all reports for a program."""
    return {"services": [report.as_dict() for report in reports], "faults": [r.service for r in reports if r.is_fault]}
