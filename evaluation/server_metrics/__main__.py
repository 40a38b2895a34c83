"""The process that scrapes: `python -m evaluation.server_metrics URL FILE` appends a line a second until it ends."""

import asyncio
import signal
import sys
from pathlib import Path

from evaluation.server_metrics.scraper import MetricsScraper, open_fetch
from settings import Settings
from streaming.clock import monotonic


async def main(url: str, file: Path) -> None:
    """Print the address, which tells the run that this process has started, and scrape it."""
    with file.open("a", encoding="utf-8", buffering=1) as journal:
        async with open_fetch(url, Settings.from_environment()) as fetch:
            sys.stdout.write(f"scraping {url}\n")
            sys.stdout.flush()
            await MetricsScraper(fetch, journal.write, monotonic).run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it here too, but the run says when to end
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
