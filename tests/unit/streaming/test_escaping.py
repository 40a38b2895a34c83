"""Untrusted text is plain text in every output format: no markup, link, formula or control character."""

import csv
import re
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from evaluation import tables
from evaluation.analysis import compare
from evaluation.reports import compare as reports_compare
from evaluation.reports import html, markdown, plotly_figures, png, terminal
from evaluation.reports.charts import build_charts
from evaluation.tables import Run, escape_run
from streaming.escaping import to_csv, to_html, to_line, to_markdown, to_picture, to_plotly

SAMPLE = Path(__file__).parents[3] / "docs" / "sample-run"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "![pixel](http://tracker.example/p.png)",
    "[click](javascript:alert(1))",
    "http://tracker.example/a see www.tracker.example and a@tracker.example",
    "<http://tracker.example>",
    "[ref]\n\n[ref]: http://tracker.example",
    "a|b\n| --- |\nc",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "===",
    "---",
    "    code",
    "`code` ``more``",
    "```\nfence",
    "*bold* __bold__ ~~gone~~",
    "&lt;b&gt; &#60;b&#62;",
    "$x^{$ and $$y$$",
    "back\\slash \\<b> \\",
    "\x1b[31mred\x1b[0m \x1b]8;;http://tracker.example\x07link\x1b]8;;\x07",
    "a\x00b\x07\x08\x7f\x9b31m",
    "right\u202eto\u2066left",
    "line\u2028line\x85line",
    "lone \ud800 surrogate",
    "</script><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "[red]markup[/red] :smile: [link=http://tracker.example]x[/link]",
    "_hidden",
]
"""Hostile texts, one for each kind of attack."""


@pytest.mark.parametrize("text", HOSTILE)
def test_line_of_hostile_text_is_printable(text: str) -> None:
    line = to_line(text)
    assert line.isprintable() and "\n" not in line
    assert line.encode("utf-8")


@pytest.mark.parametrize("text", ["Zürich 東京 🙂", "नि\u200dक", "café", ""])
def test_line_of_ordinary_text_is_unchanged(text: str) -> None:
    assert to_line(text) == text


PLACES = [
    "# Report {}",
    "{}",
    "{} at the start of a line",
    "- item: {}",
    "**{}**",
    "| a | b |\n| --- | --- |\n| {} | end |",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_hostile_text_renders_as_plain_text(place: str, text: str) -> None:
    render = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    plain = render.render(place.format("word"))
    result = render.render(place.format(to_markdown(text)))
    assert re.findall(r"</?\w+", result) == re.findall(r"</?\w+", plain), "no tag but those of the place"
    shown = re.sub(r"<[^>]*>", "", result).replace("\u2060", "")
    assert " ".join(to_html(text).split()) in " ".join(shown.split()), "and all of it is read"


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_hostile_text_has_no_bare_url(text: str) -> None:
    result = to_markdown(text)
    assert not re.search(r"(?:https?|ftp)://|\bwww\.\w|\w\.[a-z]{2,}|@\w", result)


def test_markdown_of_adjacent_texts_has_no_bare_url() -> None:
    assert "://" not in f"{to_markdown('http')}:{to_markdown('//tracker.example')}"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("\r=1", "'=1"),
        ("  =1", "'=1"),
        ("\n=1", "'=1"),
        ('"=1', "'\"=1"),
        ("'=1", "''=1"),
        ('" = 1', "'\" = 1"),
        ("＝1", "'＝1"),
        ("a;=1", "a;'=1"),
        ("\u200b=1", "\ufffd=1"),
        ("a=1", "a=1"),
        ("gpt-4.1-mini", "gpt-4.1-mini"),
        ("a\x1b[0m\nb", "a\ufffd[0m b"),
    ],
)
def test_csv_cell_is_never_a_formula(text: str, cell: str) -> None:
    assert to_csv(text) == cell


@pytest.mark.parametrize("text", HOSTILE)
def test_plotly_and_html_text_has_no_tag(text: str) -> None:
    assert not {"<", ">"} & set(to_plotly(text)) and not {"<", ">", '"'} & set(to_html(text))


@pytest.fixture(scope="module")
def sample() -> Run:
    return tables.load(SAMPLE)


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


@pytest.mark.parametrize("text", [replace_surrogates(text) for text in HOSTILE])
def test_report_of_hostile_run_has_same_markup_as_ordinary_run(sample: Run, text: str) -> None:
    render = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render
    plain, result = (markdown.markdown(make_hostile_run(sample, name)) for name in ("word", text))
    assert [len(line.split("|")) for line in plain.splitlines()] == [
        len(line.replace(r"\|", "").split("|")) for line in result.splitlines()
    ]
    assert re.findall(r"</?\w+", render(result)) == re.findall(r"</?\w+", render(plain))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\u2066]", result)


@pytest.mark.parametrize("text", [replace_surrogates(text) for text in HOSTILE])
def test_html_page_of_hostile_run_has_no_injected_tag(sample: Run, text: str) -> None:
    result = html.render_html(markdown.markdown(make_hostile_run(sample, text)), [])
    plain = html.render_html(markdown.markdown(make_hostile_run(sample, "word")), [])
    assert re.findall(r"</?\w+", result) == re.findall(r"</?\w+", plain)
    drawn = [plotly_figures.plotly_figure(view) for view in build_charts(make_hostile_run(sample, text))]
    assert drawn
    assert not re.search(r"</?(?:a|b|i|img|script|span|sub|sup|br)\b", str(drawn))


def test_terminal_table_of_hostile_run_prints_names_literally(sample: Run) -> None:
    for text in map(replace_surrogates, HOSTILE):
        written = StringIO()
        Console(file=written, markup=False, emoji=False, highlight=False, width=4000, force_terminal=True).print(
            terminal.summary_table(make_hostile_run(sample, text))
        )
        output = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue())  # remove the colours of rich
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", output)
        assert to_line(text) in output


def shorten(run: Run, trials: int) -> Run:
    """Return the run's first trials of one provider: names look the same in a small comparison."""
    some = run.trials[run.trials["model"] == run.trials["model"].iloc[0]].head(trials).reset_index(drop=True)
    return replace(run, trials=some, events=run.events[run.events["trial_id"].isin(list(some["trial_id"]))])


def test_comparison_of_hostile_runs_renders_as_plain_text(sample: Run) -> None:
    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    short = shorten(sample, 6)
    for text in map(replace_surrogates, HOSTILE):
        run = make_hostile_run(short, text)
        result = reports_compare.comparison_markdown(compare.compare(run, run), text, text)
        assert set(re.findall(r"<(\w+)", render(result))) <= {"h1", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result)


@pytest.mark.parametrize("text", ["$\\frac{1}{$", "$a$ $b$", "_hidden", "🙂 東京 \x1b[31m", "%d {x} \\$"])
def test_png_charts_of_hostile_run_are_drawn(sample: Run, text: str, tmp_path: Path) -> None:
    written = png.write_pngs(tmp_path, build_charts(make_hostile_run(sample, text)), text)
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
