"""Scraping on virtual time: its pace, what it writes, and errors."""

import asyncio
import json
from pathlib import Path

import pytest

from evaluation.server_metrics.readings import MAX_COLUMNS, SERVER_FILE, Reading, read_readings
from evaluation.server_metrics.scraper import MetricsScraper, ScrapeError, metrics_url
from evaluation.server_metrics.table import build_server_table
from streaming.errors import UsageError
from tests.virtual_time import loop_clock, run_on_virtual_time


class SlowServer:
    """A server whose metrics count their readings; the third reading fails, and one takes longer than a second."""

    def __init__(self) -> None:
        self.readings = 0

    async def fetch(self) -> str:
        self.readings += 1
        if self.readings == 3:
            raise ScrapeError("status 503")
        await asyncio.sleep(2.5 if self.readings == 4 else 0.01)
        return f"llamacpp:requests_processing {self.readings}\nllamacpp:requests_deferred 7\n"


def scrape_for(seconds: float) -> list[dict[str, object]]:
    lines: list[str] = []

    async def main() -> None:
        task = asyncio.create_task(MetricsScraper(SlowServer().fetch, lines.append, loop_clock()).run())
        await asyncio.sleep(seconds)
        task.cancel()

    run_on_virtual_time(main(), start_s=100.0)
    return [json.loads(line) for line in lines]


def test_server_is_scraped_each_second_and_late_readings_are_left_out() -> None:
    lines = scrape_for(8.5)
    assert [line["at_s"] for line in lines] == [100, 101, 102, 103, 106, 107, 108]
    assert lines[0]["scrape_s"] == pytest.approx(0.01) and lines[3]["scrape_s"] == pytest.approx(2.5)


def test_only_what_changed_is_written_and_all_of_it_after_an_error() -> None:
    lines = scrape_for(4.0)
    running, waiting = "llamacpp:requests_processing", "llamacpp:requests_deferred"
    assert lines[0]["samples"] == {running: 1, waiting: 7} and lines[1]["samples"] == {running: 2}
    assert lines[2]["error"] == "status 503" and "samples" not in lines[2]


def test_series_whose_labels_changed_is_not_counted_twice(tmp_path: Path) -> None:
    responses = ['vllm:num_requests_running{model_name="a"} 3\n', 'vllm:num_requests_running{model_name="b"} 2\n']
    file = tmp_path / SERVER_FILE

    async def fetch() -> str:
        return responses.pop(0)

    async def scrape_all() -> None:
        with file.open("a") as journal:
            scraper = MetricsScraper(fetch, journal.write, lambda: 1.0)
            while responses:
                await scraper.scrape()

    asyncio.run(scrape_all())
    table = build_server_table(read_readings(tmp_path))
    assert table["running"].tolist() == [3, 2]
    assert table['vllm:num_requests_running{model_name="a"}'].isna().tolist() == [False, True]


async def fetch_page() -> str:
    return "<html>no metrics</html>"


def test_response_in_another_format_is_an_error_of_the_reading() -> None:
    lines: list[str] = []
    asyncio.run(MetricsScraper(fetch_page, lines.append, lambda: 1.0).scrape())
    assert "not in Prometheus's text format" in json.loads(lines[0])["error"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/metrics"),
        ("http://host/inference/metrics?name=a", "http://host/inference/metrics?name=a"),
    ],
)
def test_address_of_a_server_alone_gets_the_usual_path(url: str, expected: str) -> None:
    assert metrics_url(url) == expected


@pytest.mark.parametrize(
    "line",
    [
        '{"at_s":1}',
        '{"at_s":1,"at":"","scrape_s":0,"samples":{"a":"x"}}',
        '{"at_s":1,"at":"","scrape_s":0,"samples":7}',
    ],
)
def test_invalid_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / SERVER_FILE).write_text(Reading(1.0, "", 0.1, {"a": 1.0}).to_json_line() + line + "\n")
    with pytest.raises(UsageError, match=r"server\.jsonl, line 2: not a reading"):
        list(read_readings(tmp_path))


def test_number_of_series_of_a_run_is_bounded(tmp_path: Path) -> None:
    names = [{f"a{number}_{place}": 1.0 for place in range(MAX_COLUMNS // 2 + 1)} for number in range(3)]
    (tmp_path / SERVER_FILE).write_text("".join(Reading(1.0, "", 0.1, samples).to_json_line() for samples in names))
    assert len({name for reading in read_readings(tmp_path) for name in reading.samples}) == MAX_COLUMNS
