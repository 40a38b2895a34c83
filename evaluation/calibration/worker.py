"""The process that a calibration measures: the instrument as a run uses it, with requests to a server on this machine.

It is started as `python -m evaluation.calibration.worker` and prints the timestamps it took as one JSON object.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

from evaluation.backends.interference import freeze_gc
from evaluation.calibration.model import ObservedAnswer
from providers import ProviderRegistry
from settings import Settings
from streaming.adapter import UnpreparableRequest
from streaming.clock import cpu_s
from streaming.errors import UsageError
from streaming.events import Finish, TextDelta
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest, Message
from streaming.os_limits import set_realtime_priority
from streaming.precise_loop import run_on_precise_loop

_PROMPT = "How accurate are your timestamps?"


async def _run_streams(base_url: str, ca_file: str, streams: int, rounds: int, name: str) -> list[ObservedAnswer]:
    """Start all streams at once; each sends `rounds` requests, one after the other, without a pause."""
    settings = Settings({"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "SSL_CERT_FILE": ca_file})
    providers = ProviderRegistry(settings)
    route = providers.route("openai:steady")
    prepared = await route.adapter.prepare_request(ChatRequest((Message("user", _PROMPT),), model=route.model))
    if isinstance(prepared, UnpreparableRequest):
        raise UsageError(f"the instrument cannot be calibrated: {prepared.reason}")
    freeze_gc()  # as a run does before its load
    sockets = TimestampingSelector()

    async def ask_once(request_id: str) -> ObservedAnswer:
        response = await prepared.send(sockets, request_id)
        exchange, last = response.exchange, response.events[-1].event
        tokens_s = [timed.at_s for timed in response.events if isinstance(timed.event, TextDelta)]
        problem = None if isinstance(last, Finish) else f"{exchange.ending}: {last}"
        return ObservedAnswer(
            request_id, exchange.sent_s, tokens_s, exchange.merged_reads, exchange.timestamp_source, problem
        )

    async def run_stream(number: int) -> list[ObservedAnswer]:
        return [await ask_once(f"{name}-{number}-{turn}") for turn in range(rounds)]

    try:
        return [answer for answers in await asyncio.gather(*map(run_stream, range(streams))) for answer in answers]
    finally:
        sockets.close()
        await providers.aclose()


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    await _run_streams(options.url, options.ca_file, 1, 1, "first")  # warm-up, as in a run
    real_time = set_realtime_priority()
    begun_s = cpu_s()
    observations = await _run_streams(options.url, options.ca_file, options.streams, options.rounds, "stream")
    used_s = cpu_s() - begun_s
    return {"cpu_s": used_s, "real_time_priority": real_time, "observed": [asdict(one) for one in observations]}


def main() -> None:
    """Measure and print the result as JSON on stdout."""
    parser = argparse.ArgumentParser("python -m evaluation.calibration.worker", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca-file", default="")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(run_on_precise_loop(_measure(options))) + "\n")  # as a run does


if __name__ == "__main__":
    main()
