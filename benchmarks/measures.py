"""The cost of computing all metrics of a stream of 1,000,000 text events, and its growth with the number of events.

Run as `python -m benchmarks.measures`. The baseline is one iteration over the same events in Python.
"""

import json
import time
from collections.abc import Callable

from evaluation.metrics import cadence, experience
from evaluation.metrics.cadence import Chunks
from streaming.events import TextDelta, TimedEvent

EVENTS = 1_000_000
ROUNDS = 3


def best_s(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest round, since other work on the machine can only add time."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        work()
        times.append(time.process_time() - began_s)
    return min(times)


def measure(events: list[TimedEvent]) -> None:
    """Compute every metric of the text that a trial's row has."""
    source = Chunks.from_events(events)
    cadence.cadence(source.gaps_s)
    cadence.stalls(source.gaps_s)
    experience.delivery_delay(source, Chunks([at_s + 0.05 for at_s in source.at_s], source.chars))
    experience.fluidity(source, len(events), experience.TokenDeadlines())
    experience.qoe(source, experience.ReaderModel())


def main() -> None:
    """Print a line for each number of events, and a JSON object as the last line."""
    delta = TextDelta("four")
    events = [TimedEvent(0.2 + i * 0.001, delta) for i in range(EVENTS)]
    result = {}
    for count in (EVENTS // 10, EVENTS):
        part = events[:count]
        walked_s = best_s(lambda part=part: [len(t.event.text) for t in part])  # type: ignore[misc] # a bound default
        took_s = best_s(lambda part=part: measure(part))  # type: ignore[misc] # a bound default
        print(f"{count:>9,} events: {took_s:.2f} s of CPU, {took_s / walked_s:.1f} x one iteration over them")
        result[count] = took_s
    growth = result[EVENTS] / result[EVENTS // 10]
    print(json.dumps({"benchmark": "measures", "seconds": result[EVENTS], "growth_for_ten_times": round(growth, 2)}))


if __name__ == "__main__":
    main()
