"""Command-line interface of the simulator: `python -m simulator`."""

import argparse
import gc
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from simulator.faults import format_table, parse_fault
from simulator.request_handler import Defaults
from simulator.schedules import PROFILES, get_profile
from simulator.server import ServerOptions, SimulatorServer
from simulator.vendor_rules import VendorRules
from streaming.errors import UsageError
from streaming.os_limits import raise_fd_limit, set_realtime_priority

_DESCRIPTION = """Simulate the vendors' servers and log what is sent and when. No model is requested.

wires, all on one port:
  OpenAI       /v1/chat/completions, /v1/models
  Azure        /openai/deployments/NAME/chat/completions, /openai/v1/chat/completions
  Anthropic    /v1/messages, /v1/models
  Responses    /v1/responses
  Ollama       /api/chat, /api/tags, /api/show, /api/version
  others       /VENDOR/v1/chat/completions, in the vendor's own shapes: xai, openrouter, gemini, groq, mistral, …

With permission (as root) it runs at real-time priority: chunks are then sent within 0.1 ms of their schedule, else as
soon as the system schedules the process. The log has the scheduled and the actual time of every chunk.
"""

_MAX_TOKENS = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 2 for invalid options, 0 otherwise."""
    try:
        server = SimulatorServer(_server_options(_build_parser().parse_args(arguments)))
    except UsageError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    # Real-time priority keeps scheduling delays out of the client's measurements; it may not be permitted.
    set_realtime_priority(1)
    raise_fd_limit(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    gc.freeze()  # exclude the objects that live until exit from garbage collection during answers
    print(f"simulator: simulated answers at {server.url}", flush=True)
    server.run()
    return 0


def _server_options(parsed: argparse.Namespace) -> ServerOptions:
    if (parsed.tls_cert is None) != (parsed.tls_key is None):
        raise UsageError("--tls-cert, --tls-key: only one is set (set both or neither)")
    choices = Defaults(
        profile=get_profile(parsed.profile),
        fault=parse_fault(parsed.fault) if parsed.fault else None,
        seed=parsed.seed,
        ttft_s=None if parsed.ttft_ms is None else parsed.ttft_ms / 1000,
        gap_s=None if parsed.gap_ms is None else parsed.gap_ms / 1000,
        tokens=parsed.tokens,
        thinking_tokens=parsed.thinking_tokens,
        effort_tokens=_effort_tokens(parsed.effort_tokens),
        rules=VendorRules.load(datetime.now(UTC).date()) if parsed.rules == "strict" else None,
    )
    tls = (parsed.tls_cert, parsed.tls_key) if parsed.tls_cert else None
    return ServerOptions(parsed.host, parsed.port, choices, tls, parsed.log, parsed.max_streams, parsed.slots)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m simulator",
        description=_DESCRIPTION,
        epilog=_format_epilog(),
        formatter_class=argparse.RawTextHelpFormatter,
    )
    _add_server_options(parser)
    _add_answer_options(parser)
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=0, metavar="P", help="port to listen on (0: a free one, which is printed)")
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1)")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM format")
    add("--tls-key", metavar="FILE", help="private key of the certificate in PEM format")
    add(
        "--slots",
        type=_parse_count,
        metavar="K",
        help="answers given at a time; further requests wait in order (a known ceiling of K / duration of an answer)",
    )
    add("--log", metavar="FILE", help="append what was received, sent and closed, with timestamps, as JSON lines")


def _add_answer_options(parser: argparse.ArgumentParser) -> None:
    add, steady = parser.add_argument, PROFILES["steady"]
    add("--profile", default="steady", metavar="NAME", help=f"timing profile: {', '.join(PROFILES)} (steady)")
    add("--ttft-ms", type=_parse_milliseconds, metavar="MS", help=f"time to first token ({steady.ttft_s * 1000:g})")
    add("--gap-ms", type=_parse_milliseconds, metavar="MS", help=f"time between tokens ({steady.gap_s * 1000:g})")
    add(
        "--tokens",
        type=_parse_count,
        metavar="N",
        help=f"tokens of an answer ({steady.tokens}); these three options apply to every profile",
    )
    add(
        "--thinking-tokens",
        type=_parse_count,
        metavar="N",
        help="tokens of thinking before the answer, for every profile",
    )
    add("--effort-tokens", metavar="E=N,…", help="hidden tokens of thinking by effort, for example low=0,high=800")
    add(
        "--rules",
        choices=("strict", "none"),
        default="none",
        help="strict: reject what each vendor rejects, retire its models, cache its long prompts (none)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed that, with the prompt, determines the words and the times (0)",
    )
    add("--fault", metavar="NAME", help="fault of every request; the names are listed below")
    add(
        "--max-streams",
        type=_parse_count,
        metavar="N",
        help="concurrent answers; further requests get status 429 with Retry-After: 1",
    )


def _effort_tokens(text: str | None) -> dict[str, int]:
    """Parse a list such as `low=0,high=800`. Raises UsageError when an entry is invalid."""
    tokens_by_effort: dict[str, int] = {}
    for pair in filter(None, (text or "").split(",")):
        effort, _, count = pair.partition("=")
        if not effort.strip() or not count.strip().isdecimal() or int(count) > _MAX_TOKENS:
            raise UsageError(f"--effort-tokens: {pair!r} is not EFFORT=TOKENS (write for example low=0,high=800)")
        tokens_by_effort[effort.strip()] = int(count)
    return tokens_by_effort


def _parse_milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in milliseconds (use a number from 0 on)")
    return value


def _parse_count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0
    if not 1 <= value <= _MAX_TOKENS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of tokens (write a whole number from 1 to {_MAX_TOKENS})"
        )
    return value


def _format_epilog() -> str:
    return (
        "The model name selects a profile, or a fault as fault-NAME; so does the header X-Simulator-Fault: NAME.\n"
        "faults (with scope stream, an answer that is not streamed has no fault, unless it is called NAME-always):\n"
        f"{format_table()}"
    )


if __name__ == "__main__":
    sys.exit(main())
