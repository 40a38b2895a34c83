"""Tests of the downloads: what they contain, who gets them, and that no other file is sent."""

import asyncio
import io
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation import tables
from tests.unit.ui.results.result_fixtures import TABLES, copy_sample
from ui.results.downloads import MAX_WAITING, MEDIA_TYPES, RunDownloads
from ui.results.run_list import SAMPLE, SAMPLE_ID, RunList
from ui.results.run_view import RunViews


class Downloads:
    """The downloads of a folder with the sample run, for the open pages `a` and `b`."""

    def __init__(self, folder: Path) -> None:
        self.open_pages = {"a", "b"}
        self.views = RunViews()
        self.runs = RunList(folder, SAMPLE)
        self.app = RunDownloads(self.runs, self.views, self.open_pages)

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a response."""
        return asyncio.run(self.send(path, method))

    async def send(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.app({"type": "http", "method": method, "path": path}, None, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])

    def link(self, name: str, run_id: str = SAMPLE_ID, page: str = "a") -> str:
        return f"/{self.app.link(page, run_id, name)}"


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path)


def test_tables_are_those_of_the_run(downloads: Downloads) -> None:
    run = tables.load(SAMPLE)
    status, headers, body = downloads.get(downloads.link("trials.parquet"))
    assert status == 200 and headers["content-length"] == str(len(body))
    assert list(pd.read_parquet(io.BytesIO(body))["trial_id"]) == list(run.trials["trial_id"])
    _, _, body = downloads.get(downloads.link("events.parquet"))
    assert len(pd.read_parquet(io.BytesIO(body))) == len(run.events)
    _, _, body = downloads.get(downloads.link("trials.csv"))
    assert list(pd.read_csv(io.BytesIO(body))["trial_id"]) == list(run.trials["trial_id"])


def test_report_is_a_page_of_its_own(downloads: Downloads) -> None:
    status, headers, body = downloads.get(downloads.link("report.html"))
    assert status == 200 and body.startswith(b"<!doctype html>") and b"Failed: sim:flaky (simulated) 14 of 48" in body
    assert headers["content-disposition"] == 'attachment; filename="sample-run-report.html"'


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_download_is_an_attachment_that_no_browser_runs(downloads: Downloads, name: str) -> None:
    _, headers, _ = downloads.get(downloads.link(name), "HEAD")
    assert headers["content-type"] == MEDIA_TYPES[name]
    assert headers["content-disposition"].startswith("attachment; filename=")
    assert headers["x-content-type-options"] == "nosniff" and headers["content-security-policy"] == "sandbox"
    assert headers["cache-control"] == "private, no-store" and headers["referrer-policy"] == "no-referrer"


def test_head_has_no_body(downloads: Downloads) -> None:
    status, headers, body = downloads.get(downloads.link("trials.csv"), "HEAD")
    assert status == 200 and int(headers["content-length"]) > 1000 and body == b""


def test_link_is_valid_while_its_page_is_open(downloads: Downloads) -> None:
    link, other = downloads.link("trials.csv"), downloads.link("trials.csv", page="b")
    assert link != other and not {"/a/", "/b/"} & {link, other}, "the session hash is in no link"
    downloads.open_pages.discard("a")
    assert (downloads.get(link)[0], downloads.get(other)[0]) == (404, 200)


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link.replace("sample", "0" * 16), lambda link: link.replace("trials.csv", "manifest.json"),
        lambda link: link.replace("trials.csv", "../manifest.json"), lambda link: link.replace("sample", ".."),
        lambda link: link.replace("sample", "../../etc"), lambda link: f"{link}/", lambda link: link[1:],
        lambda link: re.sub("runs/[^/]+", f"runs/{'A' * 22}", link), lambda link: f"{link}\n",
        lambda link: link.replace("runs/", "runs//"), lambda link: link.replace("trials.csv", "trials.csv%00"),
    ],
)  # fmt: skip
def test_other_path_is_not_found(downloads: Downloads, change: Any) -> None:
    status, _, body = downloads.get(change(downloads.link("trials.csv")))
    assert (status, body) == (404, b'{"detail": "Not Found"}')


def test_damaged_run_is_one_line_without_a_path(tmp_path: Path, downloads: Downloads) -> None:
    run = copy_sample(tmp_path, "broken")
    (run / "trials.parquet").write_bytes(b"PAR1")
    (entry, _) = downloads.runs.entries()
    status, _, body = downloads.get(downloads.link("trials.csv", entry.id))
    assert status == 422 and b"trials.parquet: cannot be read" in body and str(tmp_path).encode() not in body


def test_downloads_have_no_path_of_this_machine_nor_another_programs_page(tmp_path: Path, downloads: Downloads) -> None:
    run = copy_sample(tmp_path, "<img src=x> \x01 run")
    (run / "report.html").write_text("<script>alert(1)</script>")
    trials = pd.read_parquet(run / "trials.parquet").assign(error_message=f"cannot open {tmp_path}/key.pem")
    trials.to_parquet(run / "trials.parquet", index=False)
    entry = next(entry for entry in downloads.runs.entries() if not entry.is_sample)
    for name in MEDIA_TYPES:
        status, headers, body = downloads.get(downloads.link(name, entry.id))
        assert status == 200 and str(tmp_path).encode() not in body and b"alert(1)" not in body
        assert re.fullmatch(r'attachment; filename="img-src-x-run-[a-z.]+"', headers["content-disposition"])


def test_run_without_rows_has_empty_tables(tmp_path: Path, downloads: Downloads) -> None:
    copy_sample(tmp_path, "lost", drop=TABLES)
    (entry, _) = downloads.runs.entries()
    status, _, body = downloads.get(downloads.link("trials.csv", entry.id))
    assert status == 200 and len(body.splitlines()) == 1


def test_only_a_few_downloads_are_made_at_one_time(downloads: Downloads) -> None:
    link = downloads.link("trials.csv")

    async def main() -> list[int]:
        with downloads.views.reading:
            waiting = [asyncio.create_task(downloads.send(link)) for _ in range(MAX_WAITING)]
            await asyncio.sleep(0)
            busy, headers, _ = await downloads.send(link)
            assert headers["retry-after"] == "5"
        return [busy, *(status for status, _, _ in await asyncio.gather(*waiting))]

    assert asyncio.run(main()) == [503, *[200] * MAX_WAITING]
