"""The operations page: its variables, defaults, metrics, log example and proxy configuration match the code."""

import ast
import logging
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from evaluation.backends import base
from guard import GuardConfig, GuardVariables
from providers.registry import default_timeouts
from providers.services import SERVICES
from server import uvicorn_server
from server.metrics import AnswerMetrics, Metrics
from settings import METRICS_FOLDER, Settings
from streaming.events import Notice, TextDelta, Usage
from streaming.meter import Cost, MeterReading
from streaming.pipeline import Receipt
from ui.answers import GRACE_S

ROOT = Path(__file__).parents[3]
PACKAGES = ("streaming", "guard", "providers", "simulator", "server", "clients", "ui", "evaluation")
MODEL_VARIABLES = Settings.variable_names() | GuardVariables.variable_names()
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def table_rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of each row in a section's table, by the name in its first cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    result = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    return {name: [cell.strip().strip("`") for cell in cells.split(" | ")] for name, cells in result}


def test_operations_page_lists_every_variable() -> None:
    own = {
        "SPACE_ID",
        "SPACES_ZERO_GPU",
        "PROMETHEUS_MULTIPROC_DIR",
        "STREAMGAUGE_LISTENING_HOST",
    }  # set by the platform or by the service itself
    assert set(table_rows("Variables")) == MODEL_VARIABLES - own


FURTHER = PAGE.split("\n## Variables of providers and tools\n")[1].split("\n## ")[0]


def further_variables() -> set[str]:
    """Return the names in the first cells of the table of providers and tools."""
    first = [line.split(" | ")[0] for line in FURTHER.splitlines() if line.startswith("| `")]
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


def test_provider_variables_are_documented_with_their_default_address() -> None:
    assert SERVICES
    for row in SERVICES.values():
        needed = {name for name in (row.key, row.base_url_variable) if name}
        (line,) = [line for line in FURTHER.splitlines() if f"`{row.base_url_variable}`" in line]
        assert needed <= set(re.findall(r"`(\w+)`", line)), row.provider
        assert row.base_url is None or f"`{row.base_url}`" in line


def iterate_code_variables() -> Iterator[tuple[str, str]]:
    """Yield every variable name that the product's code reads, with the name of the file."""
    product = ("app.py", "settings.py", *PACKAGES)
    paths = [
        path for name in product for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "of"):
                for argument in node.args[:1]:
                    value = argument.value if isinstance(argument, ast.Constant) else None
                    if isinstance(value, str) and re.fullmatch(
                        r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|BUDGETS|BLOCKLIST", value
                    ):
                        yield value, path.name


def test_every_variable_read_by_the_code_is_documented() -> None:
    result = dict(iterate_code_variables())
    assert {"OPENAI_ORG_ID", "SSL_CERT_FILE"} <= set(result), "the search finds them"
    known = set(table_rows("Variables")) | further_variables()
    assert {name: file for name, file in result.items() if name not in known} == {}
    assert {base.KEY_VARIABLE, METRICS_FOLDER} <= known


def test_load_test_variables_are_documented() -> None:
    page = (ROOT / "docs" / "load-testing.md").read_text(encoding="utf-8")
    code = (ROOT / "locustfiles" / "load_options.py").read_text(encoding="utf-8")
    names = set(re.findall(r"\bLOAD_[A-Z_]+\b", code))
    options = {f"--{name.removeprefix('LOAD_').lower().replace('_', '-')}" for name in names}
    assert len(names) > 10
    assert sorted(option for option in options if f"`{option}" not in page) == []


@pytest.mark.parametrize("name", table_rows("Variables"))
def test_operations_page_defaults_match_code(name: str) -> None:
    default = table_rows("Variables")[name][0].partition(" ")[0]
    if name == "READER_TIMEOUT_S":
        assert Settings().reader_timeout_s == int(default)
    elif name == "PAGE_GRACE_S":
        assert Settings().page_grace_s == int(default) == GRACE_S
    elif name == "FIRST_CONTENT_S":
        limits = default_timeouts(Settings())
        numbers = re.findall(r"\d+", table_rows("Variables")[name][0])
        assert (limits.first_content_s, limits.first_content_unseen_s) == (float(numbers[0]), float(numbers[1]))
    elif default in ("", "the"):
        assert Settings({name: ""}).get(name) is None
    else:
        assert GuardConfig.from_env({name: default}) == GuardConfig.from_env({})


def make_receipt(reading: MeterReading) -> Receipt:
    return Receipt("completed", "stop", "stop", None, "p", 1, None, 3, reading, 0.1)


def test_operations_page_metrics_and_alerts_match_code() -> None:
    metrics = Metrics()
    metrics.record_rejection("rate")
    cost = Cost(Decimal(1), Decimal(2), "a list")
    for price in (None, cost):
        answer = AnswerMetrics(metrics, lambda: 0.0, wire="sse", about={"provider": "p:m"})
        answer.on_events([Notice("retry", "again"), TextDelta("a")], 1.0)
        answer.on_end(make_receipt(MeterReading(Usage(1, 2), price, 1.0, None, None)))
    exposed = text_string_to_metric_families(metrics.exposition().decode())
    families = [family for family in exposed if not family.name.endswith("_created")]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert set(table_rows("Metrics")) == names
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples and table_rows("Metrics")[name][0] == ", ".join(
            sorted(labels, key=table_rows("Metrics")[name][0].find)
        )
    used = re.findall(r"streamgauge_\w+", PAGE.split("```yaml")[1].split("```")[0])
    assert used
    assert {name.removesuffix("_bucket") for name in used} <= names


def test_operations_page_log_example_has_real_fields(caplog: pytest.LogCaptureFixture) -> None:
    shown: dict[str, Any] = orjson.loads(PAGE.split("## Logs")[1].split("```json\n")[1].split("\n```")[0])
    about = {name: "x" for name in ("request_id", "provider", "strategy", "caller")}
    receipt = make_receipt(MeterReading(Usage(1, 2), None, 1.0, None, None))
    with caplog.at_level(logging.INFO, "streamgauge"):
        AnswerMetrics(Metrics(), lambda: 0.0, wire="sse", about=about).on_end(receipt)
    assert list(shown)[:4] == ["at", "level", "logger", "event"]
    assert list(shown)[4:] == list(caplog.records[0].__dict__["fields"])


def test_operations_page_nginx_config_matches_compose() -> None:
    shown = PAGE.split("```nginx\n")[1].split("```")[0]
    run = dedent((ROOT / "compose.yaml").read_text(encoding="utf-8").split("content: |\n")[1]).replace("$$", "$")
    replicas = "    server 127.0.0.1:7860;\n    server 127.0.0.1:7861;\n"
    assert run.replace("    server app:${PORT:-7860};\n", replicas) == shown


def test_keep_alive_timeout_exceeds_proxy_timeout() -> None:
    nginx_keeps_s = 60  # nginx's default; with a longer one it would reuse connections that are closed here
    assert "keepalive_timeout" not in PAGE
    assert uvicorn_server.uvicorn_config(None, grace_s=1).timeout_keep_alive > nginx_keeps_s
