"""The start-up time of the page, compared with `import gradio`, the slowest part that it cannot avoid.

Both run as separate processes, alternately, so that other work on the machine affects both. The fastest round counts,
since other work can only add time. The page is usable when its address is printed and `/` responds with status 200 and
the page. Run as `python -m benchmarks.page_start`.
"""

import json
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

ROUNDS = 5
TARGET = 2.0
"""The largest acceptable ratio of the page's start to the import."""


def import_s() -> float:
    """Return the seconds that a process with `import gradio` takes."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    return time.perf_counter() - began_s


def page_s() -> float:
    """Return the seconds from the start of the service to its first page."""
    began_s = time.perf_counter()
    command = [sys.executable, "app.py", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            address = process.stdout.readline().split()[-1]
            with urlopen(address) as answer:
                page = answer.read()
            took_s = time.perf_counter() - began_s
        finally:
            process.send_signal(signal.SIGTERM)
    if answer.status != 200 or b"Streamgauge" not in page:
        raise RuntimeError(f"{address} answered {answer.status}, {len(page)} bytes, and not with the page")
    return took_s


def main() -> None:
    """Print both times of each round, and a JSON object as the last line."""
    import_s()  # warm the disk cache before the first round
    rounds = []
    for _ in range(ROUNDS):
        rounds.append((import_s(), page_s()))
        print(f"import gradio {rounds[-1][0]:.2f} s, the page {rounds[-1][1]:.2f} s", flush=True)
    imported_s, usable_s = (min(column) for column in zip(*rounds, strict=True))
    ratio = round(usable_s / imported_s, 2)
    result = {"import_gradio_s": round(imported_s, 2), "page_s": round(usable_s, 2), "ratio": ratio}
    print(json.dumps({"benchmark": "page_start", **result, "met": ratio <= TARGET}))


if __name__ == "__main__":
    main()
