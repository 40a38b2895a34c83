"""A run with untrusted text in all of its fields: reports, page, charts, terminal and tables show it as plain text."""

import csv
import re
import shutil
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from evaluation import tables
from evaluation.analysis import compare
from evaluation.analysis.findings import Findings
from evaluation.reports import compare as reports_compare
from evaluation.reports import html, markdown, plotly_figures, png, terminal
from evaluation.reports.charts import build_charts
from evaluation.tables import Run, escape_run
from streaming.escaping import to_line, to_markdown, to_picture
from tests.hostile_texts import HOSTILE

SAMPLE = Path(__file__).parents[2] / "docs" / "sample-run"


@pytest.fixture(scope="module")
def sample() -> Run:
    return tables.load(SAMPLE)


@pytest.fixture(scope="module")
def short(sample: Run) -> Run:
    """Return six trials of each provider: a name looks the same in a small run."""
    some = sample.trials.groupby("model", observed=True).head(6).reset_index(drop=True)
    return replace(sample, trials=some, events=sample.events[sample.events["trial_id"].isin(list(some["trial_id"]))])


def make_hostile_run(sample: Run, text: str) -> Run:
    """Return the run with this text in every untrusted field; one trial in five failed with it as the message."""
    trials = sample.trials.copy()
    failed = pd.Series(range(len(trials))) % 5 == 0
    trials["provider"] = trials["provider"].where(failed, text)
    trials["model"] = text
    trials.loc[failed, ["outcome", "error_type", "error_message", "finish_raw"]] = ["failed", text, text, text]
    for name in ("strategy", "price_source", "price_date", "fell_back_to", "token_source", "prompt_id"):
        trials[name] = text
    trials = trials.astype(tables.TRIAL_DTYPES)
    scenario = sample.manifest["scenario"]
    manifest = {
        **sample.manifest,
        "run_id": text,
        "git_commit": text,
        "started_at": text,
        "complete": False,
        "out_of_budget": True,
        "max_cost_usd": text,
        "machine": {**sample.manifest["machine"], "cpu_model": text, text: text},
        "versions": {text: text},
        "warm_up": {text: [text]},
        "loads": [{"shortfall": text, "concurrency_max": 1}],
        "scenario": {
            **scenario,
            "providers": [text],
            "strategies": [text],
            "transport": ["sse", text],
            "url": text,
            "arrivals": text,
            "rate": 1.0,
            "prompts": [{"id": text}],
        },
    }
    return replace(sample, trials=trials, manifest=manifest)


def replace_surrogates(text: str) -> str:
    """Return the text without surrogates, which a parquet file cannot store."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class RenderedReport:
    """A run's report in Markdown, and the tags of what is made of it."""

    markdown: str
    markdown_tags: list[str]
    page_tags: list[str]


def render_report(run: Run) -> RenderedReport:
    report = markdown.markdown(run)
    render = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render
    made = (render(report), html.render_html(report, []))
    return RenderedReport(report, *(re.findall(r"</?\w+", text) for text in made))


@pytest.fixture(scope="module")
def ordinary_report(short: Run) -> RenderedReport:
    """Return the report of the run that has an ordinary word where the hostile ones have their text."""
    return render_report(make_hostile_run(short, "word"))


@pytest.mark.parametrize("text", [replace_surrogates(text) for text in HOSTILE])
def test_report_and_page_of_hostile_run_have_same_markup_as_ordinary_run(
    short: Run, ordinary_report: RenderedReport, text: str
) -> None:
    report = render_report(make_hostile_run(short, text))
    assert [len(line.split("|")) for line in ordinary_report.markdown.splitlines()] == [
        len(line.replace(r"\|", "").split("|")) for line in report.markdown.splitlines()
    ]
    assert report.markdown_tags == ordinary_report.markdown_tags
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\u2066]", report.markdown)
    assert report.page_tags == ordinary_report.page_tags


@pytest.mark.parametrize("text", [replace_surrogates(text) for text in HOSTILE])
def test_charts_of_hostile_run_have_no_injected_tag(short: Run, text: str) -> None:
    drawn = [plotly_figures.plotly_figure(view) for view in build_charts(make_hostile_run(short, text))]
    assert drawn
    assert not re.search(r"</?(?:a|b|i|img|script|span|sub|sup|br)\b", str(drawn))


def test_terminal_table_of_hostile_run_prints_names_literally(short: Run) -> None:
    for text in map(replace_surrogates, HOSTILE):
        run, written = make_hostile_run(short, text), StringIO()
        Console(file=written, markup=False, emoji=False, highlight=False, width=4000, force_terminal=True).print(
            terminal.summary_table(run, Findings.from_run(run))
        )
        output = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue())  # remove the colours of rich
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", output)
        assert to_line(text) in output


def test_comparison_of_hostile_runs_renders_as_plain_text(sample: Run) -> None:
    own = sample.trials[sample.trials["model"] == sample.trials["model"].iloc[0]].head(6).reset_index(drop=True)
    short = replace(sample, trials=own, events=sample.events[sample.events["trial_id"].isin(list(own["trial_id"]))])
    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    for text in map(replace_surrogates, HOSTILE):
        run = make_hostile_run(short, text)
        result = reports_compare.comparison_markdown(compare.compare(run, run), text, text)
        assert set(re.findall(r"<(\w+)", render(result))) <= {"h1", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result)


@pytest.mark.parametrize("text", ["$\\frac{1}{$", "$a$ $b$", "_hidden", "🙂 東京 \x1b[31m", "%d {x} \\$"])
def test_png_charts_of_hostile_run_are_drawn(short: Run, text: str, tmp_path: Path) -> None:
    written = png.write_pngs(tmp_path, build_charts(make_hostile_run(short, text)), text)
    assert written and all((tmp_path / name).stat().st_size > 1000 for name in written)


def test_picture_text_with_dollars_is_not_math() -> None:
    figure = png.draw_chart(build_charts(tables.load(SAMPLE))[0], "$x$ $")
    figure.canvas.draw()
    assert to_picture("$x$") == r"\$x\$"


def test_csv_of_hostile_run_has_no_formula_and_keeps_numbers(sample: Run, tmp_path: Path) -> None:
    text = "=HYPERLINK(1)\x1b[0m"
    tables.write(tmp_path, make_hostile_run(sample, text))
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"'=HYPERLINK(1)\ufffd[0m"}
    for row in rows:
        assert [cell for cell in row.values() if re.match(r"[=@\t\r]", cell) or re.search(r"[\x00-\x1f]", cell)] == []
    assert [float(row["ttft_s"]) for row in rows] == pytest.approx(sample.trials["ttft_s"].tolist())
    kept = pd.read_parquet(tmp_path / "trials.parquet")
    assert set(kept["model"]) == {text}, "parquet is exact"


def test_csv_read_back_equals_tables(sample: Run, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "run")
    tables.write(tmp_path / "run", sample)
    again = pd.read_csv(tmp_path / "run" / "trials.csv", dtype=tables.TRIAL_DTYPES)
    numbers = [name for name, dtype in tables.TRIAL_DTYPES.items() if dtype in ("float64", "Int64")]
    pd.testing.assert_frame_equal(again[numbers], sample.trials[numbers], rtol=1e-11)
    pd.testing.assert_frame_equal(tables.load(tmp_path / "run").trials, sample.trials)


def test_escaped_run_keeps_columns_that_join_trials_and_events(sample: Run) -> None:
    shown = escape_run(sample, to_markdown)
    for name in ("run_id", "trial_id", "prompt_id"):
        assert shown.trials[name].tolist() == sample.trials[name].tolist()
    assert shown.events is sample.events
