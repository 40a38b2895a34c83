"""Plots as numbers, the page and the pictures: all values counted, few drawn, nothing asked of another origin."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluation import page, plots, report, tables, views
from evaluation.record import EventRow
from evaluation.scenario import Planned, plan
from evaluation.view import MOST_POINTS, View
from tests.unit.evaluation import made

LIMIT_BYTES = 6_000_000


def row(planned: Planned) -> tuple[Any, list[EventRow]]:
    """Give a trial with every figure that a plot shows; every fifth one was cut."""
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
    return made.trial(planned, **columns), made.gaps(planned, 0.02, 0.02, 0.02, 0.9 if slow else 0.02)


def run_of(folder: Path, **changes: Any) -> tables.Run:
    wanted = made.scenario(**changes)
    made.write(folder, wanted, map(row, plan(wanted)))
    return tables.from_journal(folder)


@pytest.fixture
def found(tmp_path: Path) -> dict[str, View]:
    return {view.id: view for view in views.views(run_of(tmp_path, repeats=10))}


def test_a_run_with_everything_has_every_plot(found: dict[str, View]) -> None:
    assert list(found) == ["ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost", "stalls"]
    for view in found.values():
        assert view.caption and view.title and view.series


def test_the_number_stands_under_the_picture(found: dict[str, View]) -> None:
    assert re.search(r"sim:a \(simulated\) 210 \[\d+, \d+\] ms \(p95 218, n = 15\)", found["ttft"].caption)
    assert "sim:a (simulated) 20.0/20.0/20.0 ms (n = 60)" in found["gaps"].caption
    assert "direct · sim:a (simulated) 50.0; direct · b:c 50.0" in found["delay"].caption
    assert "b:c 17 stalls, 15.3 s of silence, 3 not completed" in found["stalls"].caption


def test_gaps_are_shares_of_all_and_the_curve_ends_at_hundred(found: dict[str, View]) -> None:
    for series in found["gaps"].series:
        shares = [value for value in series.y if isinstance(value, float)]
        assert sum(shares) == pytest.approx(100, abs=0.01) and len(series.x) == len(series.y)
    assert all(series.y[-1] == 100 for series in found["gaps-ecdf"].series)


def test_an_answers_tokens_end_where_its_usage_says(found: dict[str, View]) -> None:
    assert found["progress"].y_title == "tokens"
    assert max(y for s in found["progress"].series for y in s.y if isinstance(y, float)) == 16


def test_silence_is_flat_and_time_lines_begin_at_their_zero(found: dict[str, View]) -> None:
    figures = {name: page.figure(view) for name, view in found.items()}
    assert {trace["line"]["shape"] for trace in figures["progress"]["data"]} == {"hv"}
    assert {trace["line"]["shape"] for trace in figures["gaps-ecdf"]["data"]} == {"linear"}
    assert all(figures[name]["layout"]["xaxis"]["rangemode"] == "tozero" for name in ("progress", "stalls", "cost"))
    assert all(plots.draw(found[name], "r").axes[0].get_xlim()[0] == 0 for name in ("progress", "stalls", "cost"))


def test_a_stall_stands_where_it_happened_and_a_cut_answer_is_crossed_out(found: dict[str, View]) -> None:
    stalls = [series for series in found["stalls"].series if series.sizes]
    assert len(stalls) == 1 and set(stalls[0].sizes) == {0.9} and set(stalls[0].y) == {"b:c"}
    lost = [series for series in found["stalls"].series if series.failed]
    assert sum(len(series.x) for series in lost) == 8


def test_who_has_no_price_is_named_and_not_drawn_at_zero(found: dict[str, View]) -> None:
    assert [series.name for series in found["cost"].series] == ["b:c"]
    assert "for want of a price or of known tokens: sim:a (simulated)" in found["cost"].note


def test_a_large_run_is_drawn_in_part_and_says_so(tmp_path: Path) -> None:
    wanted = made.scenario(("sim:a",), repeats=400)
    made.write(tmp_path, wanted, [(made.trial(p, ttft_s=0.1 + p.number / 10_000), []) for p in plan(wanted)])
    (ttft,) = views.views(tables.from_journal(tmp_path))
    box = ttft.series[0].box
    assert box is not None and len(box.points) == MOST_POINTS and "300 of up to 800 drawn" in ttft.note
    assert box.percentiles[2] == pytest.approx(140.05), "the median is that of all 800"
    assert "n = 800" in ttft.caption


def test_nothing_completed_is_nothing_to_draw(tmp_path: Path) -> None:
    wanted = made.scenario()
    made.write(tmp_path, wanted, [(made.trial(p, outcome="failed", ttft_s=None), []) for p in plan(wanted)])
    run = tables.from_journal(tmp_path)
    assert views.views(run) == []
    text = page.page(report.markdown(run), [])
    assert "No trial was completed" in text and "<script" not in text


class Links(HTMLParser):
    """Collects whatever could make a browser ask for something."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.asks += [f"{tag} {name}" for name in ("src", "href", "action", "srcset") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found.get("content") or ""


def test_the_page_is_whole_and_its_policy_forbids_every_request(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    text = page.page(report.markdown(run), views.views(run))
    links = Links()
    links.feed(text)
    assert links.asks == [] and "default-src 'none'" in links.policy and "connect-src" not in links.policy
    assert len(text.encode()) < LIMIT_BYTES
    for id_ in ("ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost", "stalls"):
        assert f'<div id="{id_}"' in text
    assert "<h2>Provenance</h2>" in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_a_name_cannot_end_the_script_nor_bring_its_own(tmp_path: Path) -> None:
    evil = "x:</script><script>alert(1)</script>"
    run = run_of(tmp_path, providers=(evil, "sim:a"))
    text = page.page(report.markdown(run), views.views(run))
    assert "<script>alert(1)" not in text and text.count("</script>") == 2
    figures = re.search(r"const FIGURES = (.*);\n", text)
    assert figures and html.escape(evil) in json.dumps(json.loads(figures[1]), ensure_ascii=False)


def test_every_plot_is_a_picture_too_and_old_ones_go(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "old.png").write_bytes(b"")
    names = plots.write(tmp_path, views.views(run), "run")
    assert sorted(names) == sorted(f"plots/{path.name}" for path in (tmp_path / "plots").iterdir())
    for name in names:
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 8000, name
