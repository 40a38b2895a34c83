"""Charts as numbers, the HTML page and the PNG files: sampling, captions, and no request to another origin."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from evaluation import tables
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports import charts as reports_charts
from evaluation.reports import html as reports_html
from evaluation.reports import markdown, plotly_figures, png, svg
from evaluation.reports.chart_kinds import MAX_POINTS, Chart
from evaluation.scenario import PlannedTrial, plan
from evaluation.schema import EventRow
from tests.unit.evaluation import factories

MAX_PAGE_BYTES = 600_000


def make_row(planned: PlannedTrial) -> tuple[Any, list[EventRow]]:
    """Return a trial with every metric that a chart shows; every fifth one is truncated."""
    slow = planned.provider == "b:c"
    columns: dict[str, Any] = {
        "ttft_s": 0.2 + 0.001 * planned.block,
        "outcome": "truncated" if planned.number % 5 == 0 else "completed",
        "sent_monotonic_s": 1000.0 + planned.number,
        "output_tokens": 16,
        "thinking_tokens": 0,
        "token_source": "reported",
        "output_tps": 20.0 if slow else 50.0,
        "chars_per_s": 80.0,
        "delay_mean_s": 0.05,
        "cost_usd": 0.002 if slow else None,
    }
    return factories.make_trial(planned, **columns), factories.make_gap_events(
        planned, 0.02, 0.02, 0.02, 0.9 if slow else 0.02
    )


def make_run(folder: Path, **changes: Any) -> tables.Run:
    prompts = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(changes.pop("prompts", 8)))
    options: dict[str, Any] = {"prompts": prompts, "repeats": 1} | changes
    wanted = factories.make_scenario(**options)
    factories.write_run(folder, wanted, map(make_row, plan(wanted)))
    return tables.from_journal(folder)


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chart]:
    run = make_run(tmp_path_factory.mktemp("run"), prompts=20)
    return {view.id: view for view in reports_charts.build_charts(run)}


def test_complete_run_has_every_chart(charts: dict[str, Chart]) -> None:
    assert list(charts) == ["ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost", "stalls"]
    for view in charts.values():
        assert view.caption and view.title and view.series


def test_chart_captions_state_the_numbers(charts: dict[str, Chart]) -> None:
    assert re.search(r"sim:a \(simulated\) 21\d \[\d+, \d+\] ms \(p80 .+, n = 20, 3 failed\)", charts["ttft"].caption)
    assert "sim:a (simulated) 20.0/20.0/20.0 ms (n = 68)" in charts["gaps"].caption
    assert "direct · sim:a (simulated) 50.0; direct · b:c 50.0" in charts["delay"].caption
    assert "b:c 15 stalls, 13.5 s in total, 5 not completed" in charts["stalls"].caption


def test_gap_charts_sum_to_100_percent(charts: dict[str, Chart]) -> None:
    for series in charts["gaps"].series:
        shares = [value for value in series.y if isinstance(value, float)]
        assert sum(shares) == pytest.approx(100, abs=0.01) and len(series.x) == len(series.y)
    assert all(series.y[-1] == 100 for series in charts["gaps-ecdf"].series)


def test_progress_chart_ends_at_reported_tokens(charts: dict[str, Chart]) -> None:
    assert charts["progress"].y_title == "tokens"
    assert max(y for s in charts["progress"].series for y in s.y if isinstance(y, float)) == 16


def test_progress_chart_steps_and_time_axes_start_at_zero(charts: dict[str, Chart]) -> None:
    figures = {name: plotly_figures.plotly_figure(view) for name, view in charts.items()}
    assert {trace["line"]["shape"] for trace in figures["progress"]["data"]} == {"hv"}
    assert {trace["line"]["shape"] for trace in figures["gaps-ecdf"]["data"]} == {"linear"}
    assert all(figures[name]["layout"]["xaxis"]["rangemode"] == "tozero" for name in ("progress", "stalls", "cost"))
    assert all(png.draw_chart(charts[name], "r").axes[0].get_xlim()[0] == 0 for name in ("progress", "stalls", "cost"))


def test_timeline_chart_places_stalls_and_marks_failed_trials(charts: dict[str, Chart]) -> None:
    stalls = [series for series in charts["stalls"].series if series.sizes]
    assert len(stalls) == 1 and set(stalls[0].sizes) == {0.9} and set(stalls[0].y) == {"b:c"}
    lost = [series for series in charts["stalls"].series if series.failed]
    assert sum(len(series.x) for series in lost) == 8


def test_cost_chart_omits_and_names_unpriced_providers(charts: dict[str, Chart]) -> None:
    assert [series.name for series in charts["cost"].series] == ["b:c"]
    assert "as the price or the tokens are unknown: sim:a (simulated)" in charts["cost"].note


def test_large_run_chart_is_sampled_and_noted(tmp_path: Path) -> None:
    wanted = factories.make_scenario(("sim:a",), prompts=[Prompt(f"p{n}", "?") for n in range(800)], repeats=1)
    factories.write_run(
        tmp_path, wanted, [(factories.make_trial(p, ttft_s=0.1 + p.number / 10_000), []) for p in plan(wanted)]
    )
    (ttft,) = reports_charts.build_charts(tables.from_journal(tmp_path))
    box = ttft.series[0].box
    assert box is not None and len(box.points) == MAX_POINTS and "300 of up to 800 drawn" in ttft.note
    assert box.percentiles[2] == pytest.approx(140.05), "the median is that of all 800"
    assert "n = 800" in ttft.caption


def test_run_without_completed_trial_has_no_charts(tmp_path: Path) -> None:
    wanted = factories.make_scenario()
    factories.write_run(
        tmp_path, wanted, [(factories.make_trial(p, outcome="failed", ttft_s=None), []) for p in plan(wanted)]
    )
    run = tables.from_journal(tmp_path)
    assert reports_charts.build_charts(run) == []
    text = reports_html.render_html(markdown.markdown(run), [])
    assert "No trial was completed" in text and "<script" not in text


class LinkCollector(HTMLParser):
    """A parser that collects every attribute that makes a browser send a request, and the page's policy."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [f"{tag} {name}" for name in ("src", "href", "action", "srcset") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found.get("content") or ""


def test_html_report_is_self_contained_and_forbids_requests(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = reports_html.render_html(markdown.markdown(run), reports_charts.build_charts(run))
    links = LinkCollector()
    links.feed(text)
    assert links.links == [] and "default-src 'none'" in links.policy and "connect-src" not in links.policy
    assert len(text.encode()) < MAX_PAGE_BYTES
    for id_ in ("ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost", "stalls"):
        assert f'<section class="plot" id="{id_}"' in text
    assert text.count("<svg ") == 2 * 7, "one for screens and paper, one for phones"
    assert "<h2>Provenance</h2>" in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_provider_name_cannot_inject_script(tmp_path: Path) -> None:
    evil = "x:</script><script>alert(1)</script>"
    run = make_run(tmp_path, providers=(evil, "sim:a"))
    text = reports_html.render_html(markdown.markdown(run), reports_charts.build_charts(run))
    assert "<script>alert(1)" not in text and text.count("</script>") == 1
    assert html.escape(evil)[:20] in text
    figure = plotly_figures.plotly_figure(reports_charts.build_charts(run)[0])
    assert html.escape(evil) in json.dumps(figure, ensure_ascii=False)


@pytest.mark.parametrize("width", svg.WIDTHS_PX.values())
def test_svg_text_and_marks_lie_within_the_drawing(charts: dict[str, Chart], width: int) -> None:
    for view in charts.values():
        drawing = ElementTree.fromstring(svg.draw_chart(view, width))
        _, _, right, bottom = map(float, drawing.attrib["viewBox"].split())
        for text in drawing.iter("text"):
            assert 0 <= float(text.attrib["x"]) <= right and 0 <= float(text.attrib["y"]) <= bottom, view.id
        for path in drawing.iter("path"):
            for x in re.findall(r"[ML]([\d.]+) ", path.attrib["d"]):
                assert 0 <= float(x) <= right, view.id


def test_svg_scales_have_few_round_ticks() -> None:
    assert svg.Scale(0, 3.1, 0, 300).ticks(4) == [0, 1, 2, 3]
    assert svg.Scale(8, 1100, 0, 300, is_log=True).ticks(3) == [10, 100, 1000]
    assert svg.Scale(0, 10, 50, 250)(5) == 150 and svg.Scale(1, 100, 0, 200, is_log=True)(10) == 100


def test_charts_follow_the_decision(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = reports_html.render_html(markdown.markdown(run), reports_charts.build_charts(run))
    places = [text.index(part) for part in ("<h2>Decision</h2>", 'id="ttft"', "<h2>Comparisons</h2>")]
    assert places == sorted(places)


def test_pngs_are_written_for_every_chart_and_old_ones_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "old.png").write_bytes(b"")
    names = png.write_pngs(tmp_path, reports_charts.build_charts(run), "run")
    assert sorted(names) == sorted(f"plots/{path.name}" for path in (tmp_path / "plots").iterdir())
    for name in names:
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 8000, name
