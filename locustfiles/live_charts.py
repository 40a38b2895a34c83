"""Charts of TTFT, tokens/s and goodput on Locust's own web page, below its content.

Locust's page takes tables from extensions, but no charts: a Flask blueprint serves the points and a script that draws
them, and the page gets a reference to that script.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import result_collector
from flask import Blueprint, Response, jsonify, request, send_from_directory
from load_options import DEFAULT_SLO
from locust import events
from locust.env import Environment

from evaluation.analysis.slo import parse_slo
from evaluation.load_test.live_metrics import LiveMetrics
from streaming.clock import monotonic
from streaming.errors import UsageError
from streaming.escaping import to_line

SCRIPT = "charts.js"
_ASSETS = Path(__file__).parent / "assets"
_PAGE_END = "</body>"


class ChartPage:
    """The charts of one web page; each test that is started on it begins them anew."""

    def __init__(self, environment: Environment, base_path: str = "") -> None:
        assert environment.web_ui is not None  # only a process with a page has charts
        self._environment, self._base_path = environment, base_path
        self._metrics: LiveMetrics | None = None
        self._slo = DEFAULT_SLO
        web_ui = environment.web_ui
        assert web_ui.app is not None  # it has one from its start on
        blueprint = Blueprint("streaming", __name__, url_prefix=f"{base_path}/streaming")
        blueprint.add_url_rule("/points", view_func=web_ui.auth_required_if_enabled(self.send_points))
        blueprint.add_url_rule(f"/{SCRIPT}", view_func=self.send_script)
        web_ui.app.register_blueprint(blueprint)
        web_ui.app.after_request(self.add_script)

    def start_test(self, environment: Environment, **_: object) -> None:
        """Begin the charts of a test."""
        options = environment.parsed_options
        self._slo = (options.slo if options is not None else "") or DEFAULT_SLO
        try:
            objectives = parse_slo(self._slo)
        except UsageError as error:
            self._slo, objectives = f"{to_line(str(error))}: all completed answers count", ()
        self._metrics = LiveMetrics(objectives, monotonic())

    def add_answer(self, answer: Mapping[str, Any], **_: object) -> None:
        """Add an answer that has ended."""
        if self._metrics is not None and answer["outcome"] != "open":
            self._metrics.add(answer, monotonic())

    def send_points(self) -> Response:
        """Return the points so far as JSON."""
        points = [] if self._metrics is None else self._metrics.points(monotonic())
        runner = self._environment.runner
        return jsonify({"points": points, "slo": self._slo, "state": runner.state if runner is not None else ""})

    def send_script(self) -> Response:
        """Return the script that draws the charts."""
        return send_from_directory(_ASSETS, SCRIPT)

    def add_script(self, response: Response) -> Response:
        """Add the script to Locust's page."""
        if request.endpoint == "locust.index" and response.mimetype == "text/html" and response.status_code == 200:
            reference = f'<script src="{self._base_path}/streaming/{SCRIPT}" defer></script>'
            response.set_data(response.get_data(as_text=True).replace(_PAGE_END, reference + _PAGE_END))
        return response


@events.init.add_listener
def _on_init(environment: Environment, **_: object) -> None:
    if environment.web_ui is not None:
        options = environment.parsed_options
        page = ChartPage(environment, (options.web_base_path if options is not None else "") or "")
        events.test_start.add_listener(page.start_test)
        result_collector.answer_received.add_listener(page.add_answer)
