"""Scenario files: every key, command-line options that override them, and line numbers in errors."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from evaluation.__main__ import main
from evaluation.cli import arguments, scenario_file
from evaluation.cli.arguments import RunOptions
from evaluation.cli.run_model import PRICE_KEYS, PromptEntry, RunModel
from evaluation.prompts.prompt_file import Prompt
from providers.models.pricing import TokenPrices
from streaming.errors import UsageError

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "docs" / "scenario.toml"


def parse_options(*options: str) -> RunOptions:
    return arguments.parse_run_options(arguments.build_parser().parse_args(["run", *options]))


def write_scenario(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_example_scenario_file_parses_as_documented() -> None:
    result = parse_options("--scenario", str(EXAMPLE))
    scenario = result.scenario
    assert scenario.providers == ("sim:steady", "sim:bursty") and scenario.concurrency == 2
    assert scenario.strategies == ("direct", "batch:100ms", "pace:30tps") and scenario.trials == 144
    assert scenario.transport == ("in-process", "sse") and scenario.url is None
    assert scenario.prompts[0].expected_tokens == 20 and (scenario.seed, scenario.temperature) == (7, 0.7)
    assert result.max_cost_usd == Decimal("0.1") and result.record and result.plots and len(result.slo) == 3
    assert result.prices["sim:bursty"] == TokenPrices(
        Decimal("0.1"), Decimal("0.4"), Decimal("0.02")
    ) and result.out == Path("out/scenario")


def test_example_scenario_file_passes_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--scenario", str(EXAMPLE), "--dry-run"]) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["trials"] == 144 and data["at_most_usd"] is not None and not (ROOT / "out" / "scenario").exists()


def test_transport_may_be_a_string_and_url_is_read(tmp_path: Path) -> None:
    head = 'providers = ["sim:steady"]\nout = "x"\n'
    result = parse_options(
        "--scenario", str(write_scenario(tmp_path, f'{head}transport = "sse"\nurl = "http://a:1/"\n'))
    ).scenario
    assert (result.transport, result.url) == (("sse",), "http://a:1")
    assert parse_options("--scenario", str(EXAMPLE), "--transport", "openai,sse").scenario.transport == (
        "openai",
        "sse",
    )


def test_example_scenario_file_mentions_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for key in (*RunModel.model_fields, *PromptEntry.model_fields, *PRICE_KEYS):
        if key in ("prompts", "prices"):
            continue  # tables
        assert f"{key} =" in text or f"# {key} =" in text, key


def test_command_line_options_override_scenario_file() -> None:
    result = parse_options(
        "--scenario", str(EXAMPLE), "--repeats", "1", "--strategies", "whole", "--rate", "3", "--no-plots"
    )
    assert (result.scenario.repeats, result.scenario.strategies) == (1, ("whole",)) and not result.plots
    assert result.scenario.rate == 3.0 and result.scenario.concurrency == 1, "one kind of load replaces the other"
    priced = parse_options("--scenario", str(EXAMPLE), "--price", "sim:steady=9/9")
    assert priced.prices["sim:steady"] == TokenPrices(Decimal(9), Decimal(9)) and "sim:bursty" in priced.prices


def test_prompts_file_is_relative_to_scenario_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Why?\nHow?\n")
    path = write_scenario(tmp_path, 'providers = ["sim:steady"]\nprompts_file = "mine.txt"\n')
    assert parse_options("--scenario", str(path), "--dry-run").scenario.prompts == (
        Prompt("line-1", "Why?"),
        Prompt("line-2", "How?"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('providers = ["a"]\nrepeat = 3\n', "line 2: 'repeat' is not a key (did you mean repeats?)"),
        ("seed = 1\n\nrepeats = 0\n", "line 3: repeats: invalid value (write a whole number of at least 1"),
        ('url = "a:1"\n', "line 1: url 'a:1': not an address"),
        ("transport = [3]\n", "line 1: transport: invalid value (write a list of names"),
        ("repeats = true\n", "line 1: repeats: invalid value (write a whole number"),
        ('strategies = ["fast"]\n', "line 1: strategies: strategy 'fast': unknown"),
        ('providers = "a"\n', "line 1: providers: invalid value (write a list of names"),
        ("rate = 0\n", "line 1: rate: invalid value (write a number above 0"),
        ('arrivals = "random"\n', 'line 1: arrivals: invalid value (write "constant" or "poisson"'),
        ("seed = 1\nseed = 2\n", "not TOML"),
        ("temperature = nan\n", "line 1: temperature: invalid value (write a number of at least 0"),
        ("max_cost_usd = -1\n", "line 1: max_cost_usd: invalid value (write a number of at least 0"),
        ('[[prompts]]\nid = "a"\nprompt = "A?"\n[[prompts]]\nid = "b"\n', "line 4: the prompt has no prompt"),
        ('[[prompts]]\nid = "a"\nprompt = "A?"\n[[prompts]]\nid = "a"\nprompt = "B?"\n', "line 5: the id is used"),
        ("seed = 1\nprompts = []\n", "line 2: prompts: not a list of tables"),
        ('seed = 1\nprompts = "Why?"\n', "line 2: prompts: not a list of tables"),
        ("prices = 3\n", "line 1: prices: not a table"),
        ('[[prompts]]\nid = "a"\ntext = "A?"\n', "line 3: 'text' is not a key"),
        ('seed = 1\n[prices]\n"m:x" = { input = 1 }\n', "line 3: not a price"),
        ('[prices]\nm = { input = "1", output = 2 }\n', "line 2: the price's input: invalid value (write a number"),
        ('seed = 1\nslo = "ttft<1s"\n', "line 2: slo: 'ttft<1s': 'ttft' is unknown (use failed"),
        ('seed = 1\nprompts_file = "none"\n', "line 2: prompts file"),
        ('prompts_file = "x"\n[[prompts]]\nid = "a"\nprompt = "A?"\n', "line 1: prompts and prompts_file are both set"),
    ],
)
def test_invalid_value_is_reported_with_line(tmp_path: Path, text: str, words: str) -> None:
    path = write_scenario(tmp_path, text)
    with pytest.raises(UsageError) as excinfo:
        scenario_file.read_scenario_file(path)
    assert words in str(excinfo.value) and str(path) in str(excinfo.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('providers = ["sim:steady", "sim:steady"]', "providers: one is repeated"),
        ('strategies = ["direct", "direct"]', "strategies: one is repeated"),
        ('transport = ["sse", "sse"]', "transport: one is repeated"),
        ('transport = "pigeon"', "transport: 'pigeon' is unknown"),
        ('url = "http://127.0.0.1:9"', "url: not used by any transport"),
        ("prompt_count = 999", "prompt-count: out of range (use 1 to 24"),
        ("rate = 5000", "rate: out of range (use more than 0, at most 1000"),
        ("rate = 5.0\nconcurrency = 2", "rate and concurrency: both are set"),
        ('retries = 1\ntransport = "sse"', "retries: only supported in-process"),
        ("repeats = 10_000_000", "repeats: 240000000 trials are too many for one run"),
        ('calibration = "none.json"', "calibration none.json: No such file"),
    ],
)
def test_cross_field_error_is_reported_with_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    path = write_scenario(tmp_path, f"seed = 1\n\n{text}\n")
    others = () if text.startswith("providers") else ("--providers", "sim:steady")
    assert main(["run", "--scenario", str(path), "--dry-run", *others]) == 2
    assert f"{path}, line 3: {words}" in capsys.readouterr().err


def test_invalid_option_is_not_attributed_to_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenario(tmp_path, 'providers = ["sim:steady"]\nprompt_count = 2\n')
    assert main(["run", "--scenario", str(path), "--dry-run", "--prompt-count", "99"]) == 2
    assert capsys.readouterr().err.startswith("error: prompt-count: out of range")


def test_unknown_provider_is_reported_with_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenario(tmp_path, 'seed = 1\nproviders = ["sim:steady", "nobody:x"]\n')
    assert main(["run", "--scenario", str(path), "--dry-run"]) == 2
    assert "line 2: provider 'nobody': unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "file_value", "option"),
    [
        ("repeats", "0", "--repeats=0"),
        ("seed", "-5", "--seed=-5"),
        ("rate", "0", "--rate=0"),
        ("temperature", "nan", "--temperature=nan"),
        ("strategies", '["fast"]', "--strategies=fast"),
        ("slo", '"ttft<1s"', "--slo=ttft<1s"),
        ("timeouts", '"soon=5"', "--timeouts=soon=5"),
    ],
)
def test_option_is_validated_as_the_key_of_a_scenario_file(
    tmp_path: Path, key: str, file_value: str, option: str
) -> None:
    with pytest.raises(UsageError) as of_file:
        parse_options("--scenario", str(write_scenario(tmp_path, f"{key} = {file_value}\n")))
    with pytest.raises(UsageError) as of_option:
        parse_options("--providers", "sim:steady", "--dry-run", option)
    assert str(of_file.value) == f"{tmp_path / 'scenario.toml'}, line 1: {of_option.value}"


def test_missing_scenario_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml: No such file"):
        scenario_file.read_scenario_file(tmp_path / "gone.toml")


def test_scenario_file_has_a_key_for_every_run_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'providers = ["sim:steady"]\ncalibration = "bar.json"\nresume = true\ndry_run = true\nout = "o"\n'
    result = parse_options("--scenario", str(write_scenario(tmp_path, text)))
    assert (result.calibration, result.resume, result.dry_run) == (Path("bar.json"), True, True)
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    flags = re.findall(r"^  (?:-h, )?--([a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    options = {flag.removeprefix("no-").replace("-", "_") for flag in flags} - {"help", "scenario"}
    assert len(options) > 20
    other_names = {"price": "prices", "prompts": "prompts_file", "max_cost": "max_cost_usd"}
    assert {other_names.get(option, option) for option in options} <= RunModel.model_fields.keys()
