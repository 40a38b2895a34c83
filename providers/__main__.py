"""The command line: `python -m providers [--check] [--json]`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import date

from rich.console import Console

from providers import overview
from providers.overview import ServiceReport
from providers.table import Providers
from settings import Settings
from streaming.clock import utc_now
from streaming.errors import UsageError

WIDTH = 160
"""Columns of the table where there is no terminal to ask."""
EPILOG = (
    "exit codes: 0 done; 1 with --check, when the example of a ready service is missing, retired or soon to be, or the "
    "service cannot be reached; 2 the command cannot be carried out."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the services, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m providers",
        description="Show which services can be asked, and ask those whose key is set for their models.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when an example cannot be relied on")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    parsed = parser.parse_args(arguments)
    settings = Settings.from_environment()
    try:
        reports = asyncio.run(_survey(settings))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if parsed.json:
        print(json.dumps(overview.to_json(reports)))
    else:
        _print_table(reports)
    if not parsed.check:
        return 0
    faults = [report for report in reports if report.is_fault]
    for report in faults:
        print(f"{report.state}: {report.example}: {'; '.join(report.notes)}", file=sys.stderr)
    return 1 if faults else 0


async def _survey(settings: Settings) -> list[ServiceReport]:
    providers = Providers(settings)
    try:
        return await overview.survey(providers, settings, date.fromisoformat(utc_now()[:10]))
    finally:
        await providers.aclose()


def _print_table(reports: list[ServiceReport]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(overview.to_table(reports))


if __name__ == "__main__":
    sys.exit(main())
