"""The command line: `python -m evaluation run …` and `python -m evaluation report DIR`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evaluation import manifest, scenario
from evaluation.record import EVENTS, TRIALS
from evaluation.run import Summary, run
from providers import Providers, parse_price
from settings import Settings
from streaming.errors import UsageError
from streaming.session import Route

_EPILOG = (
    "exit codes: 0 done; 1 done, but no trial was completed; 2 the command cannot be carried out; "
    "130 stopped by a signal, what was finished is kept. The last line on stdout is one JSON object."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command and give the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return _run(asked) if asked.command == "run" else _report(asked.folder)
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; `python -m evaluation report DIR` makes the tables of what is kept", file=sys.stderr)
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description="Measure streamed answers.", epilog=_EPILOG, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", title="commands")
    again = commands.add_parser("report", help="make the tables and the report of a folder anew from its journal")
    again.add_argument("folder", type=Path, metavar="DIR")
    new = commands.add_parser("run", help="ask, measure, and write tables and a report", epilog=_EPILOG)
    new.add_argument("--providers", required=True, metavar="A,B", help="for example local,sim:steady,replay:FILE")
    new.add_argument(
        "--strategies", default="direct", metavar="X,Y", help="for example direct,batch:100ms (%(default)s)"
    )
    new.add_argument("--transport", default=scenario.TRANSPORT, help="how answers are asked for (%(default)s)")
    new.add_argument("--prompts", type=Path, metavar="FILE", help="one a line, or JSONL with id and prompt")
    new.add_argument(
        "--prompt-count",
        type=int,
        metavar="N",
        help=f"only the first N (all of FILE; without FILE {scenario.DEFAULT_PROMPT_COUNT} of those that ship)",
    )
    new.add_argument("--repeats", type=int, default=3, metavar="N", help="of each cell (%(default)s)")
    new.add_argument("--concurrency", type=int, default=1, metavar="N", help="answers at a time (%(default)s)")
    new.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (%(default)s)")
    new.add_argument("--temperature", type=float, metavar="T", help="without it the provider's own")
    new.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (%(default)s)")
    new.add_argument("--retries", type=int, default=0, metavar="N", help="of a failed request (%(default)s)")
    new.add_argument("--no-warm-up", action="store_true", help="leave out the one unrecorded answer a provider")
    new.add_argument(
        "--price", action="append", default=[], metavar="MODEL=IN/OUT", help="USD for a million tokens; may be repeated"
    )
    new.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    return parser


def _run(asked: argparse.Namespace) -> int:
    wanted = _scenario(asked)
    summary = asyncio.run(_measure(wanted, dict(map(parse_price, asked.price)), asked.out))
    facts = _show(asked.out)
    if summary.interrupted:
        print(f"stopped: {summary.trials} of {summary.planned} trials are kept in {asked.out}", file=sys.stderr)
    print(json.dumps({**facts, "interrupted": summary.interrupted}))
    return _exit_code(summary)


def _scenario(asked: argparse.Namespace) -> scenario.Scenario:
    count = asked.prompt_count
    if asked.prompts is None and count is None:
        count = scenario.DEFAULT_PROMPT_COUNT
    return scenario.Scenario(
        providers=scenario.names(asked.providers),
        strategies=scenario.strategy_names(asked.strategies),
        prompts=scenario.read_prompts(asked.prompts or scenario.DEFAULT_PROMPTS, count),
        repeats=asked.repeats,
        seed=asked.seed,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        concurrency=asked.concurrency,
        warm_up=0 if asked.no_warm_up else 1,
        retries=asked.retries,
        transport=asked.transport,
    )


async def _measure(wanted: scenario.Scenario, prices: dict[str, Any], folder: Path) -> Summary:
    settings = Settings.from_environment()
    providers = Providers(settings, prices=prices)
    try:
        for name in wanted.providers:
            _check(providers.route(name))
        manifest.claim(folder)
        return await run(wanted, providers, folder, mask=settings.masked)
    finally:
        await providers.aclose()


@runtime_checkable
class _KnowsItsModels(Protocol):
    """An adapter that can tell without asking anybody whether there is such a model."""

    def check(self, model: str) -> None: ...


def _check(route: Route) -> None:
    if isinstance(route.adapter, _KnowsItsModels):
        route.adapter.check(route.model)


def _report(folder: Path) -> int:
    manifest.require(folder)
    print(json.dumps(_show(folder)))
    return 0


def _show(folder: Path) -> dict[str, Any]:
    """Make tables and report, print the table, and give the facts of the last line.

    `failed` counts all that were not completed, `outcomes` tells them apart.
    """
    # pandas takes a second to import: a mistyped command is told at once, and a run begins at once.
    from evaluation import report, tables, terminal

    made = report.rebuild(folder)
    terminal.show(made)
    outcomes = {str(name): int(count) for name, count in made.trials["outcome"].value_counts().items()}
    completed = outcomes.get("completed", 0)
    names = (manifest.MANIFEST, TRIALS, EVENTS, *tables.FILES, report.REPORT)
    return {
        "folder": str(folder),
        "run_id": made.manifest.get("run_id"),
        "trials": len(made.trials),
        "completed": completed,
        "failed": len(made.trials) - completed,
        "outcomes": outcomes,
        "files": [name for name in names if (folder / name).exists()],
    }


def _exit_code(summary: Summary) -> int:
    if summary.interrupted:
        return 130
    return 0 if summary.outcomes["completed"] else 1


if __name__ == "__main__":
    sys.exit(main())
