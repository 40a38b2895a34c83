"""What a delivery strategy does to a reader, and the error of saying so.

    python -m benchmarks.painting [--prompts N] [--cpu N] [--columns N]

Runs the same prompts through every strategy in a real browser, on the page that draws every event, and prints for each
the delay in the strategy, the delay to the screen, dropped frames and how busy the page's main thread was. Before the
run the browser paints text at known times, at 60 frames per second and on a page that holds its frames to 30: a known
delay of 100 ms, and of none, must be seen within one frame at the median, and the trace's frames must agree with a
second clock of the page within one frame. What was seen of them is printed first.

Each prompt is 30 answers, one at a time, of about 3 s with their page: 90 answers by default. The run shows
its progress on stderr.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from evaluation import manifest, tables
from evaluation.analysis import summary
from evaluation.backends.browser.calibration import FRAME_RATES, KNOWN_DELAYS_S
from evaluation.reports.painting import painting_error_lines, painting_table
from evaluation.scenario import strategy_names

STRATEGIES = "direct,batch:100ms,debounce:100ms,pace:30tps,whole"
PROVIDERS = "sim:steady,sim:bursty"


def run_strategies(folder: Path, prompts: int, transports: str) -> None:
    """Measure every strategy in this folder. Raises CalledProcessError when the run fails."""
    command = [sys.executable, "-m", "evaluation", "run", "--out", str(folder), "--providers", PROVIDERS]
    command += ["--strategies", ",".join(strategy_names(STRATEGIES)), "--transport", transports, "--no-plots"]
    command += ["--prompt-count", str(prompts), "--max-tokens", "120"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def judge(folder: Path) -> dict[str, object]:
    """Return what the run says of its own error, and whether it is within one frame."""
    (instrument, *_) = manifest.read(folder)["instrument"]
    trials = tables.load(folder).trials
    check_s, frame_s = float(trials["frame_check_s"].abs().median()), 1 / FRAME_RATES[0]
    seen = instrument["painting"]["seen"]
    errors = [{**one, "error_s": round(one["median_s"] - one["known_delay_s"], 6)} for one in seen]
    met = check_s <= frame_s and len(errors) == len(FRAME_RATES) * len(KNOWN_DELAYS_S)
    met = met and all(abs(one["error_s"]) <= 1 / one["frames_per_s"] for one in errors)
    return {"known_times": errors, "frame_check_s": check_s, "frame_s": frame_s, "met": met}


def main() -> int:
    """Run the benchmark and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=3, help="more of them narrow the intervals (3)")
    parser.add_argument("--cpu", type=int, default=4, help="also with a processor so many times slower (4)")
    parser.add_argument("--columns", type=int, default=4, help="also with so many answers side by side (4)")
    options = parser.parse_args()
    ways = ["browser", f"browser:cpu={options.cpu}", f"browser:columns={options.columns}"]
    with tempfile.TemporaryDirectory() as folder:
        run_strategies(Path(folder) / "run", options.prompts, ",".join(ways))
        run = tables.load(Path(folder) / "run")
        print("\n".join(painting_error_lines(run.manifest, run.trials)), end="\n\n")
        print("\n".join(painting_table(summary.groups(run))))
        result = judge(Path(folder) / "run")
    print(json.dumps({"benchmark": "painting", **result}))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
