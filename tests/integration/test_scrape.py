"""Scraping over real sockets: this project's own service during a run, and servers that answer with something else."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import evaluation
from evaluation.__main__ import main
from evaluation.server_metrics.scraper import MAX_EXPOSITION_BYTES, check_server
from settings import Settings


def test_run_reads_its_own_services_metrics_into_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = "run --providers sim:steady --transport sse --scrape service --concurrency 2 --prompt-count 2 --repeats 2"
    assert main([*options.split(), "--no-plots", "--out", str(folder)]) == 0
    assert {"server.jsonl", "server.parquet"} <= set(json.loads(capsys.readouterr().out.splitlines()[-1])["files"])
    run = evaluation.load(folder)
    read = run.server[run.server["error"].isna()]
    assert run.manifest["scrape"]["problem"] is None and set(read["server"]) == {"Streamgauge"}
    during = read[read["at_s"].between(run.trials["sent_monotonic_s"].min(), run.trials["sent_monotonic_s"].max() + 1)]
    assert 1 <= during["running"].max() <= 2 and read["output_tokens"].dropna().is_monotonic_increasing
    assert "Streamgauge at " in (folder / "report.md").read_text()


def test_server_that_does_not_answer_is_one_line_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    options = "run --providers sim:steady --scrape http://127.0.0.1:9 --prompt-count 1 --max-tokens 2 --no-warm-up"
    assert main([*options.split(), "--no-plots", "--out", str(folder)]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--scrape")]
    assert len(notes) == 1 and "(the run goes on, and tries again each second)" in notes[0]
    assert "could not be read" in (folder / "report.md").read_text()


@asynccontextmanager
async def serve(response: bytes, requests: list[bytes]) -> AsyncGenerator[int, None]:
    """Serve one response to every request, and yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def make_response(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (make_response("404 Not Found", b""), "status 404"),
        (make_response("401 Unauthorized", b""), "status 401, the server refuses the key or wants one; set SCRAPE_KEY"),
        (make_response("200 OK", b"#" * (MAX_EXPOSITION_BYTES + 1)), "a response larger than 4 MB"),
        (make_response("200 OK", b"<html>"), "not in Prometheus's text format"),
        (make_response("200 OK", b""), "no metrics in the response"),
    ],
)
def test_response_without_metrics_is_a_problem_in_words(response: bytes, problem: str) -> None:
    async def check() -> str:
        async with serve(response, []) as port:
            return str((await check_server(f"http://127.0.0.1:{port}/metrics", Settings({})))["problem"])

    assert problem in asyncio.run(check())


def test_redirect_to_another_server_is_not_followed() -> None:
    elsewhere: list[bytes] = []

    async def check() -> str:
        async with serve(make_response("200 OK", b"up 1\n"), elsewhere) as other:
            moved = make_response("302 Found", b"", f"Location: http://127.0.0.1:{other}/metrics\r\n")
            async with serve(moved, []) as port:
                return str((await check_server(f"http://127.0.0.1:{port}/metrics", Settings({})))["problem"])

    assert "status 302, a redirect to 127.0.0.1:" in asyncio.run(check()) and elsewhere == []
