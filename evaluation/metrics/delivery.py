"""Metrics of the text as the strategy delivered it to the reader."""

from evaluation.metrics import cadence, experience
from evaluation.metrics.experience import TokenDeadlines
from evaluation.metrics.metric import Metric
from evaluation.metrics.trial_metrics import MeasuredAnswer
from streaming.events import TERMINAL, TextDelta

_OWN = "this project"
_ETALON = "fluidity index of Etalon, arXiv 2407.07000"
PACES_TPS = (5, 10, 20, 40)
"""Reading paces, in tokens/s, at which the report draws the fluidity curve."""


def _fluidity_at(pace_tps: int) -> Metric:
    def compute(answer: MeasuredAnswer) -> float | None:
        return answer.fluidity(TokenDeadlines(answer.deadlines.first_s, 1.0 / pace_tps))

    formula = f"fluidity with a token due every 1/{pace_tps} s: a point of the curve over reading paces"
    name, title = f"fluidity_{pace_tps}tps", f"fluidity at {pace_tps} tokens/s"
    return Metric(name, title, "0-1", "more", "delivery", formula, _ETALON, compute, applies_to="completed")


METRICS = (
    Metric("delivered_ttft_s", "first text at the reader", "s", "less", "delivery",
           "request sent → first text that left the strategy towards the reader", _OWN,
           lambda a: a.first_event_s(a.stamps.delivered, (TextDelta,))),
    Metric("delivered_e2e_s", "whole answer at the reader", "s", "less", "delivery",
           "request sent → terminal event that left the strategy", _OWN,
           lambda a: a.first_event_s(a.stamps.delivered, TERMINAL), applies_to="ended"),
    Metric("delivered_chunks", "updates", "count", "neither", "delivery",
           "number of text deltas that left the strategy", _OWN, lambda a: len(a.delivered), applies_to="any"),
    Metric("delay_mean_s", "delay mean", "s", "less", "delivery",
           "delivered − arrived from the provider, mean over all characters; over a transport, delivered is the "
           "arrival at the client, and the delay is empty unless the service recorded its answers", _OWN,
           lambda a: a.delay.mean_s),
    Metric("delay_p95_s", "delay p95", "s", "less", "delivery", "95th percentile of the delay over all characters",
           _OWN, lambda a: a.delay.p95_s),
    Metric("delay_max_s", "delay max", "s", "less", "delivery", "maximum of the delay over all characters", _OWN,
           lambda a: a.delay.max_s),
    Metric("updates_per_s", "updates/s", "1/s", "neither", "delivery",
           "(updates − 2) / (last but one − first update): whole intervals alone", _OWN,
           lambda a: cadence.updates_per_s(a.delivered)),
    Metric("fluidity", "fluidity", "0-1", "more", "delivery",
           "share of token deadlines met, slack carried over, missed deadlines counted and reset; the deadlines stand "
           "in the manifest", _ETALON,
           lambda a: a.fluidity(a.deadlines), applies_to="completed"),
    *map(_fluidity_at, PACES_TPS),
    Metric("fluid_pace_tps", "fastest fluid pace", "1/s", "more", "delivery",
           "the fastest reading pace at which 99 % of the tokens were in time for a reader who starts with the first "
           f"text; at most {experience.MAX_PACE_TPS:g}", "after Etalon, arXiv 2407.07000",
           lambda a: a.fluid_pace_tps, applies_to="completed"),
    Metric("waited_s", "reader waited", "s", "less", "delivery",
           "time in which a reader of the set speed, after the first text, had nothing to read", _OWN,
           lambda a: experience.waited_s(a.delivered, a.reader), applies_to="completed"),
    Metric("qoe", "QoE", "0-1", "more", "delivery",
           "area under the text read by a reader of the set speed / area for a reader who never waits",
           "in the spirit of Andes, arXiv 2404.16283", lambda a: experience.qoe(a.delivered, a.reader),
           applies_to="completed"),
)  # fmt: skip
