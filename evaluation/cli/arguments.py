"""The command line's arguments; a `run` combines the defaults, a scenario file and the options."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

from evaluation import scenario
from evaluation.analysis import slo
from evaluation.analysis.metric_names import parse_primary
from evaluation.analysis.slo import Objective
from evaluation.arrivals import ARRIVALS
from evaluation.calibration import model
from evaluation.cli import scenario_file
from evaluation.cli.named_numbers import READER_NAMES, TIMEOUT_NAMES
from evaluation.cli.run_model import OWN_SERVICE, RunModel, validate_values
from evaluation.cli.scenario_file import ScenarioFile
from evaluation.cli.workload_options import add_workload_options, choose_requests
from evaluation.levels import parse_levels
from evaluation.prompts.prompt_file import SHIPPED_PROMPTS, read_prompts
from evaluation.scenario import InvalidScenarioError, Scenario
from evaluation.transports import BROWSER, BROWSER_FORM, TRANSPORTS, PageSelectors
from providers.models.pricing import TokenPrices, parse_price
from streaming import strategies
from streaming.errors import UsageError
from streaming.session import Timeouts

EPILOG = (
    "exit codes: 0 success; 1 no trial was completed, a provider failed too often, an objective was missed, or a "
    "metric of --fail-if-worse got worse; 2 usage error; 3 stopped before the cost ceiling; 4 too few trials to tell "
    "whether an objective is met; 130 stopped by a signal, finished trials are kept. The last line on stdout is one "
    "JSON object, unless stdout is a terminal."
)
DEFAULT_SWEEP_TO = 512
_LOAD_OPTIONS = ("concurrency", "rate", "sweep")
_PRIMARY_HELP = "metrics that verdicts are about, as in output_tps,e2e (time to answer text); more need more trials"
_SLO_HELP = "for example ttft_p95<800ms,stalled<1%%,failed<0.5%%; exit code 1 when it is missed, 4 with too few to tell"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one run, validated; `out` is None only for a dry run without a folder."""

    scenario: Scenario
    prices: Mapping[str, TokenPrices]
    out: Path | None
    slo: tuple[Objective, ...]
    primary: tuple[str, ...]
    max_cost_usd: Decimal | None
    record: bool
    scrape: str | None
    resume: bool
    dry_run: bool
    plots: bool
    retry_failed: bool
    max_failures: float
    timeouts: Timeouts | None
    scenario_file: ScenarioFile | None
    calibration: Path | None = None


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser. Options of `run` that are not on the command line are absent from its result."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description="Measure streamed answers.", epilog=EPILOG, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", title="commands")

    def add_command(name: str, words: str, **more: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, epilog=EPILOG, allow_abbrev=False, **more)

    _add_run_options(
        add_command("run", "send requests, measure, write tables and a report", argument_default=argparse.SUPPRESS)
    )
    _add_replay_options(
        add_command("replay", "run recorded answers through other strategies, without waiting, API key or cost")
    )
    again = add_command("report", "rebuild the tables and the report of a run from its journal")
    again.add_argument("folder", type=Path, metavar="DIR")
    again.add_argument("--no-plots", action="store_true", help="only the tables and report.md")
    both = add_command("compare", "report which metrics got better or worse between two runs")
    both.add_argument("a", metavar="A[:NAME]", help="the baseline run, or one provider of it")
    both.add_argument("b", metavar="B[:NAME]", help="the run to compare with it, or one provider of it")
    both.add_argument("--slo", metavar="SLO", help=f"objectives that B must meet: {_SLO_HELP}")
    both.add_argument(
        "--fail-if-worse", metavar="METRICS", help="for example ttft,failed: exit code 1 when one of them got worse"
    )
    both.add_argument("--primary", metavar="METRICS", help=_PRIMARY_HELP)
    both.add_argument("--out", type=Path, metavar="FILE", help="write the comparison to this file as well, in Markdown")
    _add_calibrate_options(
        add_command("calibrate", "measure the accuracy of this machine's timestamps: the error bar of later runs")
    )
    return parser


def _add_calibrate_options(new: argparse.ArgumentParser) -> None:
    new.add_argument(
        "--streams", default="1,16,64,256,512", metavar="N,M", help="numbers of concurrent streams (1,16,64,256,512)"
    )
    new.add_argument("--ways", default="plain,tls", metavar="X,Y", help="connections without and with TLS (plain,tls)")
    new.add_argument(
        "--within-ms",
        type=float,
        default=1.0,
        metavar="MS",
        help="largest p99 error of TTFT and gaps to accept, in ms (1)",
    )
    file = model.DEFAULT_FILE
    new.add_argument("--out", type=Path, default=file, metavar="FILE", help=f"calibration file ({file})")


def _add_replay_options(new: argparse.ArgumentParser) -> None:
    new.add_argument("traces", type=Path, nargs="+", metavar="DIR_OR_TRACE", help="a run's folder, or traces")
    new.add_argument(
        "--strategies",
        required=True,
        metavar="X,Y",
        help=f"one or more of {strategies.describe_forms()}; for example direct,{strategies.DEFAULT_STRATEGY}",
    )
    new.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    new.add_argument("--no-plots", action="store_true", help="only the tables and report.md")


def _add_run_options(new: argparse.ArgumentParser) -> None:
    add = new.add_argument
    add(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="a TOML file with any of these options; the command line overrides it",
    )
    add("--providers", metavar="A,B", help="for example local,sim:steady,replay:FILE")
    add("--strategies", metavar="X,Y", help=f"one or more of {strategies.describe_forms()} (direct)")
    ways = ",".join(TRANSPORTS[:-1])
    add("--transport", metavar="X,Y", help=f"of {ways},{BROWSER_FORM}: all but the first use the service")
    add("--url", metavar="URL", help="URL of the service, its API key in STREAMGAUGE_KEY (one is started for the run)")
    names = ", ".join(SHIPPED_PROMPTS)
    add("--prompts", type=Path, metavar="FILE", help=f"one a line, or JSONL with id and prompt; or one of {names}")
    add("--prompt-count", type=int, metavar="N", help="only the first N prompts (all); of a workload N of a shape (24)")
    add_workload_options(new)
    add("--repeats", type=int, metavar="N", help="repeats of each prompt in each cell; a cache may answer them (1)")
    words = "a nonce before each prompt, so that no cache answers (only where strategies or transports share a prompt)"
    add("--fresh", action=argparse.BooleanOptionalAction, help=words)
    add("--warm", action="store_true", help="ask each prompt once unrecorded first, so that caches are filled")
    _add_load_options(new)
    add("--max-tokens", type=int, metavar="N", help="max tokens of an answer (128)")
    add("--temperature", type=float, metavar="T", help="temperature (the provider's default)")
    add("--effort", metavar="X,Y", help="reasoning efforts to compare: low,high (the provider's default)")
    add("--seed", type=int, metavar="N", help="seed of the order and the arrivals (0)")
    add("--retries", type=int, metavar="N", help="retries of a failed request (0)")
    add("--timeouts", metavar="NAME=S,…", help=f"in seconds, of {', '.join(TIMEOUT_NAMES)}: first=120,total=900")
    add("--no-warm-up", dest="warm_up", action="store_false", help="skip the unrecorded first answer of each provider")
    add("--price", action="append", metavar="MODEL=IN/OUT", help="USD per million tokens; may be repeated")
    add(
        "--max-cost",
        metavar="USD",
        help="stop a run at this cost: at most this is spent, and one answer, which may think beyond its limit",
    )
    _add_output_options(add)


def _add_load_options(new: argparse.ArgumentParser) -> None:
    load = new.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        metavar="N[,M…]",
        help="concurrent answers of each provider: a closed loop (1); a sweep of several: 1,2,4 or FROM:TO:STEP",
    )
    load.add_argument(
        "--rate", metavar="R[,S…]", help="requests started per second: an open loop; several levels as with concurrency"
    )
    load.add_argument(
        "--sweep",
        type=int,
        nargs="?",
        const=DEFAULT_SWEEP_TO,
        metavar="MOST",
        help=f"from one stream to saturation by doubling and bisecting, at most MOST streams ({DEFAULT_SWEEP_TO})",
    )
    words = "answers of each level of a sweep, at least (10 for each stream, or 20 s of arrivals; 20)"
    new.add_argument("--level-answers", type=int, metavar="N", help=words)
    new.add_argument("--arrivals", choices=ARRIVALS, help="arrival process of an open loop (constant)")
    words = "shape of gamma arrivals: 1 is poisson, less has more bursts, more is more even"
    new.add_argument("--burstiness", type=float, metavar="X", help=words)
    words = f"deadlines of fluidity and speed of QoE, of {', '.join(READER_NAMES)}: first=2,tokens=20,chars=40"
    new.add_argument("--reader", metavar="NAME=N,…", help=words)
    words = "of each request over timestamped sockets (new)"
    new.add_argument("--connection", choices=scenario.CONNECTIONS, help=words)
    _add_browser_options(new.add_argument)


def _add_browser_options(add: Callable[..., object]) -> None:
    add("--stop-after", type=float, metavar="S", help="browser: press Stop so long after the first text, in seconds")
    add("--page-url", metavar="URL", help=f"{BROWSER}:custom: any chat page, by the CSS selectors below")
    add("--page-box", metavar="CSS", help="its text box")
    add("--page-send", metavar="CSS", help="its Send button (the Enter key)")
    add("--page-answer", metavar="CSS", help="its answers, of which the last is read")
    add("--page-stop", metavar="CSS", help="its Stop button, which is there only while an answer runs")


def _add_output_options(add: Callable[..., object]) -> None:
    add("--dry-run", action="store_true", help="send no requests: print their number and estimated cost")
    words = "read the Prometheus metrics of a server each second; `service`: those of the service of this run"
    add("--scrape", metavar="URL", help=words)
    words = "record every stream with its text as a trace, for `replay`; a service that the run starts then also says "
    add("--record", action="store_true", help=words + "when text arrived from the provider")
    add("--slo", metavar="SLO", help=_SLO_HELP)
    add("--primary", metavar="METRICS", help=_PRIMARY_HELP)
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help=f"error bar of the timestamps ({model.DEFAULT_FILE}, if it exists)",
    )
    add("--max-failures", metavar="SHARE", help="exit code 1 if more of a provider's trials fail than this (50%%)")
    add("--resume", action="store_true", help="continue the run in DIR; it may have more prompts or repeats now")
    add("--retry-failed", action="store_true", help="with --resume: ask again what was not completed")
    add("--no-plots", dest="plots", action="store_false", help="only the tables and report.md")
    add("--out", type=Path, metavar="DIR", help="a new or an empty folder (out/run-TIME)")


def parse_run_options(parsed: argparse.Namespace) -> RunOptions:
    """Combine the parsed arguments with the scenario file and the defaults, in this order of precedence.

    Raises UsageError, with file and line where the scenario file is at fault, when a value is missing or invalid.
    """
    given = {name: value for name, value in vars(parsed).items() if name != "command"}
    file = scenario_file.read_scenario_file(given.pop("scenario")) if "scenario" in given else None
    result = RunModel.model_construct(**_merge_options(file, _validate_options(given)))
    if not result.providers:
        raise UsageError("--providers: missing (set it, or providers in a scenario file)")
    if result.retry_failed and not result.resume:
        raise UsageError("--retry-failed: needs --resume (it asks again what a run in DIR did not complete)")
    if result.out is None and result.resume:
        raise UsageError("--out: missing (name the folder of the run that --resume continues)")
    try:
        planned = _build_scenario(result)
    except InvalidScenarioError as misfit:
        in_file = file is not None and vars(parsed).get(misfit.key) is None
        raise UsageError(f"{file.location_of(misfit.key) if file and in_file else ''}{misfit}") from None
    if result.scrape == OWN_SERVICE and not planned.service_transports:
        raise UsageError("--scrape service: nothing is sent to it (name the address of the server's metrics)")
    return RunOptions(
        scenario=planned,
        prices=result.prices,
        out=result.out,
        slo=() if result.slo is None else slo.parse_slo(result.slo),
        primary=() if result.primary is None else parse_primary(result.primary),
        max_cost_usd=result.max_cost_usd,
        record=result.record,
        scrape=result.scrape,
        resume=result.resume,
        dry_run=result.dry_run,
        plots=result.plots,
        retry_failed=result.retry_failed,
        max_failures=result.max_failures,
        timeouts=result.timeouts,
        scenario_file=file,
        calibration=result.calibration,
    )


def _merge_options(file: ScenarioFile | None, options: dict[str, Any]) -> dict[str, Any]:
    values = dict(file.values) if file else {}
    # --rate replaces the file's concurrency and vice versa; a --price replaces that model's price only.
    for name in _LOAD_OPTIONS:
        if name in options or "trace" in options:
            for other in _LOAD_OPTIONS:
                values.pop(other, None)
    if not options.keys().isdisjoint(("concurrency", "sweep", "trace")):
        values.pop("arrivals", None)
        values.pop("burstiness", None)
    if "prices" in options:
        options["prices"] = {**values.get("prices", {}), **options["prices"]}
    return values | options


def _validate_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options under a scenario file's names, validated by the same model. Raises UsageError."""
    changes: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "providers": ("providers", _split_list),
        "strategies": ("strategies", _split_list),
        "concurrency": ("concurrency", partial(_parse_load, "--concurrency")),
        "rate": ("rate", partial(_parse_load, "--rate")),
        "transport": ("transport", _split_list),
        "effort": ("effort", _split_list),
        "prompts": ("prompts_file", str),
        "max_failures": ("max_failures", parse_share),
        "price": ("prices", lambda texts: dict(map(parse_price, texts))),
        "max_cost": ("max_cost_usd", _parse_usd),
        "calibration": ("calibration", str),
        "out": ("out", str),
    }
    values = {}
    for name, value in given.items():
        key, change = changes.get(name, (name, lambda same: same))
        values[key] = change(value)
    model = validate_values(values)
    result = {key: getattr(model, key) for key in model.model_fields_set}
    if (file := result.pop("prompts_file", None)) is not None:
        result["prompts"] = read_prompts(Path(file))
    return result


def _parse_load(option: str, text: str) -> list[float]:
    """Return the levels of an option; whole numbers as such."""
    return [int(level) if level == int(level) else level for level in parse_levels(text, option)]


def _split_list(text: str) -> list[str]:
    return list(scenario.split_names(text))


def _build_scenario(result: RunModel) -> Scenario:
    if result.rate is not None and result.concurrency != (1,):
        raise InvalidScenarioError(
            "rate", "rate and concurrency: both are set (set one; an open loop does not limit concurrency)"
        )
    levels: tuple[float, ...] = result.concurrency if result.rate is None else result.rate
    return Scenario(
        providers=result.providers,
        strategies=result.strategies,
        repeats=result.repeats,
        seed=result.seed,
        max_tokens=result.max_tokens,
        temperature=result.temperature,
        concurrency=result.concurrency[0],
        levels=tuple(map(float, levels)) if len(levels) > 1 else (),
        sweep_to=result.sweep,
        level_answers=result.level_answers,
        **choose_requests(result),
        think_s=result.think_s,
        burstiness=result.burstiness,
        warm_up=int(result.warm_up),
        retries=result.retries,
        transport=result.transport,
        url=result.url,
        effort=result.effort,
        fresh=result.fresh,
        warm=result.warm,
        connection=result.connection,
        deadlines=result.reader[0],
        reader=result.reader[1],
        page=_parse_page(result),
        stop_after_s=result.stop_after,
    )


def _parse_page(result: RunModel) -> PageSelectors | None:
    """Return the page of `--page-url`. Raises InvalidScenarioError when a selector that it needs is missing."""
    if result.page_url is None:
        for key in ("page_box", "page_send", "page_answer", "page_stop"):
            if getattr(result, key) is not None:
                raise InvalidScenarioError(key, f"{key.replace('_', '-')}: belongs to a page (add --page-url)")
        return None
    for key in ("page_box", "page_answer"):
        if getattr(result, key) is None:
            raise InvalidScenarioError(key, f"{key.replace('_', '-')}: missing (write the CSS selector on --page-url)")
    assert result.page_box is not None and result.page_answer is not None
    return PageSelectors(result.page_url, result.page_box, result.page_answer, result.page_send, result.page_stop)


def parse_share(text: str) -> float:
    """Return a share such as `50%` or `0.5` as a number from 0 to 1. Raises UsageError when it is not one."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UsageError(f"max-failures {text!r}: write a share, for example 50%")
    return value


def _parse_usd(text: str) -> Decimal:
    try:
        value = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise UsageError(f"max-cost: {text!r} is not an amount (write USD, for example 0.50)")
    return value
