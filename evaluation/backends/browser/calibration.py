"""The error of painting, measured on a page that draws text at known times before the load of a run."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from evaluation.backends.browser.chromium import traced_page
from evaluation.backends.browser.trace import PageTrace
from evaluation.metrics.cadence import percentile
from streaming.clock import Clock

if TYPE_CHECKING:
    from playwright.async_api import Browser

KNOWN_DELAYS_S = (0.0, 0.1)
FRAME_RATES = (60.0, 30.0)
"""Frames per second: as a headless Chromium draws them, and as a page that holds each frame for longer lets it."""
_DRAWS = 30
_INTERVAL_MS = 53
"""No multiple of a frame's time, so that draws fall everywhere between two frames."""
_PAGE = """
<!doctype html><title>Known times</title><p id="text"></p>
<script>
  // Marks when a piece of text is due, and draws it `delay` later. With a `hold`, the page holds every frame until so
  // many milliseconds have passed since the last one, and draws what is due meanwhile, as a page that is busy does.
  const draw = (delay, draws, interval, hold) => new Promise((done) => {
    const node = document.getElementById("text").appendChild(document.createTextNode(""));
    const plans = [];
    let running = true;
    const later = hold
      ? (act, ms) => plans.push({ act, at: performance.now() + ms })
      : (act, ms) => setTimeout(act, ms);
    const runPlans = () => {
      const now = performance.now();
      for (const plan of plans.filter(({ at }) => at <= now)) {
        plans.splice(plans.indexOf(plan), 1);
        plan.act();
      }
    };
    let last = performance.now();
    const holdFrame = () => {
      while (performance.now() < last + hold) runPlans();
      last = performance.now();
      if (running) requestAnimationFrame(holdFrame);
    };
    if (hold) requestAnimationFrame(holdFrame);
    let number = 0;
    const tick = () => {
      const text = "x".repeat(++number);
      performance.mark("streamgauge-due", { detail: { chars: number } });
      if (delay) later(() => { node.data = text; }, delay); else node.data = text;
      if (number < draws) later(tick, interval); else later(() => { running = false; done(); }, delay + 200);
    };
    later(tick, interval);
  });
</script>
"""


async def measure_painting_error(browser: "Browser", clock: Clock) -> dict[str, Any]:
    """Return the error of the painted timestamps in seconds: for each known case, median and p95 of what was seen.

    A page marks when a piece of text is due and draws it after the known delay; what remains of `painted − due` is the
    wait for the next frame and the work of drawing it: up to about two frames. The cases are those of known delay and
    frame rate; `frames_per_s` is the rate that the page holds its frames to.
    """
    seen: list[dict[str, float]] = []
    error_s = 0.0
    for frames_per_s in FRAME_RATES:
        for delay_s in KNOWN_DELAYS_S:
            trace, clock_error_s = await _trace_known_draws(browser, clock, delay_s, frames_per_s)
            error_s = max(error_s, clock_error_s)
            waits_s = _waits_s(trace)
            if waits_s:
                case = {"known_delay_s": delay_s, "frames_per_s": frames_per_s, "n": float(len(waits_s))}
                seen.append(case | {"median_s": percentile(waits_s, 50.0), "p95_s": percentile(waits_s, 95.0)})
    return {"clock_error_s": round(error_s, 9), "seen": seen}


async def _trace_known_draws(
    browser: "Browser", clock: Clock, delay_s: float, frames_per_s: float
) -> tuple[PageTrace, float]:
    """Return the trace of a page that draws at known times, and the error of its clock in seconds."""
    hold_ms = 0.0 if frames_per_s == FRAME_RATES[0] else 1e3 / frames_per_s
    async with traced_page(browser, clock, answer="#text", stop=None) as shown:
        await shown.page.goto(f"data:text/html,{quote(_PAGE)}")
        await shown.start()
        await shown.page.evaluate("streamgaugeObserver.arm()")
        await shown.page.evaluate(f"draw({delay_s * 1e3:g}, {_DRAWS}, {_INTERVAL_MS}, {hold_ms:g})")
        trace, _, clock_error_s = await shown.stop()
    return trace, clock_error_s


def _waits_s(trace: PageTrace) -> list[float]:
    """Return the times from when each text was due until it was painted, in ascending order."""
    drawn = {mark.detail["chars"]: mark.at_s for mark in trace.find_marks("text")}
    return sorted(
        painted_s - due.at_s
        for due in trace.find_marks("due")
        if due.detail["chars"] in drawn
        and (painted_s := trace.find_presentation(drawn[due.detail["chars"]])) is not None
    )
