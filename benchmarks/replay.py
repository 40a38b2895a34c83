"""The time to replay 5,000 events through each strategy, compared with encoding the same events as JSON.

Run as `python -m benchmarks.replay`.
"""

import json
import statistics
import time
from collections.abc import Callable

from streaming import strategies
from streaming.events import Finish, TextDelta, TimedEvent
from streaming.replay import replay
from streaming.trace import event_to_dict

EVENTS = 5000
ROUNDS = 9


def median_s(work: Callable[[], object]) -> float:
    """Return the median time of a round in seconds."""
    times = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def main() -> None:
    """Print a line for each strategy."""
    source = [TimedEvent(0.2 + i * 0.02, TextDelta(f"w{i} ")) for i in range(EVENTS - 1)]
    source.append(TimedEvent(source[-1].at_s, Finish("stop")))
    baseline_s = median_s(lambda: [json.dumps({"at_s": t.at_s, **event_to_dict(t.event)}) for t in source])
    print(f"encoding {EVENTS} events as JSON: {baseline_s * 1000:.1f} ms (baseline)")
    for name in strategies.EXAMPLES:
        parsed = strategies.parse(name)
        took_s = median_s(lambda parsed=parsed: list(replay(source, parsed.build())))  # type: ignore[misc] # a bound default
        print(f"replay {name:<15} {took_s * 1000:6.1f} ms   {took_s / baseline_s:.2f} of the baseline")


if __name__ == "__main__":
    main()
