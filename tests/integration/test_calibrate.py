"""`python -m evaluation calibrate` as a process: the output and the calibration file."""

import json
import subprocess
import sys
from pathlib import Path

from evaluation.calibration import model

ROOT = Path(__file__).parents[2]


def test_calibrate_measures_this_machine_and_writes_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "calibration.json"
    options = ["calibrate", "--streams", "1,8", "--ways", "plain", "--within-ms", "1000", "--out", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "evaluation", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output, kept = json.loads(done.stdout.splitlines()[-1]), json.loads(file.read_text(encoding="utf-8"))
    assert output == {"file": str(file), **kept} and output["within_at_up_to"]["plain"]["streams"] == 8
    made = model.read_calibration(file)
    assert made is not None and made.ways == ("plain",) and made.stamp_source in ("kernel", "callback")
    assert [(row.streams, row.answers, row.failed) for row in made.rows] == [(1, 4, 0), (8, 8, 0)]
    for row in made.rows:
        assert row.ttft_p50_ms is not None and row.gap_p50_ms is not None and row.heard_p99_ms is not None
        assert row.cpu_s_per_1000_chunks and min(row.ttft_p50_ms, row.gap_p50_ms) >= 0 and row.heard_p99_ms > 0
    assert made.machine["cpu_count"] and made.versions["python"] and made.gap_ms == 20
    assert "calibrating plain, 8 at a time: 1/2" in done.stderr and "this machine measures TTFT within" in done.stdout
