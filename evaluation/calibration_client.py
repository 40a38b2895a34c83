"""The process that a calibration measures: the instrument by itself, as a run uses it, asking a server of this machine.

It is started as `python -m evaluation.calibration_client` and says what it noted as one JSON object.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

from evaluation.calibration import Noted
from evaluation.quiet import settle
from providers import Providers
from providers.stamped import ask
from settings import Settings
from streaming.clock import cpu_s
from streaming.events import Finish, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.priority import take_real_time_priority
from streaming.sockets import Sockets

_QUESTION = "How late are your stamps?"


async def _asked(base_url: str, ca_file: str, streams: int, rounds: int, name: str) -> list[Noted]:
    """Start all streams at once; each asks again, `rounds` times in all, as soon as it has its answer."""
    settings = Settings({"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "SSL_CERT_FILE": ca_file})
    providers = Providers(settings)
    route = providers.route("openai:steady")
    adapter: Any = route.adapter
    prepared = await adapter.prepare(ChatRequest((Message("user", _QUESTION),), model=route.model))
    settle()  # a run does it here too
    sockets = Sockets()

    async def one(request_id: str) -> Noted:
        asked = await ask(sockets, prepared, request_id)
        exchange, last = asked.exchange, asked.events[-1].event
        tokens_s = [timed.at_s for timed in asked.events if isinstance(timed.event, TextDelta)]
        problem = None if isinstance(last, Finish) else f"{exchange.ending}: {last}"
        return Noted(request_id, exchange.sent_s, tokens_s, exchange.merged_reads, exchange.stamp_source, problem)

    async def stream(number: int) -> list[Noted]:
        return [await one(f"{name}-{number}-{turn}") for turn in range(rounds)]

    try:
        return [noted for found in await asyncio.gather(*map(stream, range(streams))) for noted in found]
    finally:
        sockets.close()
        await providers.aclose()


async def _measured(asked: argparse.Namespace) -> dict[str, Any]:
    await _asked(asked.url, asked.ca_file, 1, 1, "first")  # a run's warm-up
    real_time = take_real_time_priority()
    begun_s = cpu_s()
    noted = await _asked(asked.url, asked.ca_file, asked.streams, asked.rounds, "stream")
    used_s = cpu_s() - begun_s
    return {"cpu_s": used_s, "real_time_priority": real_time, "noted": [asdict(one) for one in noted]}


def main() -> None:
    """Measure, and write the JSON object on stdout."""
    parser = argparse.ArgumentParser("python -m evaluation.calibration_client", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca-file", default="")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    sys.stdout.write(json.dumps(asyncio.run(_measured(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
