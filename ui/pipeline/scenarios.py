"""The scenarios of the pipeline tab: the local model, simulated timing profiles and simulated faults.

Profiles are played in this process. Faults need a real connection: the first fault starts the simulator on a free port
of 127.0.0.1, and the OpenAI adapter sends its requests there as to any other service.
"""

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from typing import Literal

from providers import ProviderRegistry
from settings import Settings
from simulator.faults import FAULTS
from simulator.request_handler import Defaults
from simulator.schedules import PROFILES, Profile
from simulator.server import ServerOptions, SimulatorServer
from streaming.errors import UsageError
from streaming.session import Session, Timeouts
from ui import strings
from ui.answers import AnswerService
from ui.form import LOCAL_PROVIDER
from ui.pipeline.scenario_labels import SCENARIO_LABELS

ScenarioKind = Literal["pace", "refused", "broken"]
"""Answers at some pace; requests that are refused with an error status; responses that break or cannot be read."""
_TIMEOUTS = Timeouts(connect_s=2.0, first_content_s=2.0, idle_s=2.0, total_s=60.0)
"""Short, so that users see the effect of a timeout."""
_ANSWER_PROFILE = Profile("steady", ttft_s=0.4, gap_s=0.02, tokens=120)
_FAULT_PREFIX = "sim:fault-"
"""The prefix of the full names of faults, under which notices, metrics and the log show them: as simulated."""
_PLACEHOLDER_KEY = "none"
"""A word that the simulator never sends: the adapter removes the key's text from every message."""


class Scenarios:
    """The scenarios and their sessions. The simulator runs in a daemon thread and ends with the process."""

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service
        self._simulated: ProviderRegistry | None = None
        self._all = [*self._iter_scenarios()]

    def choices(self, kind: ScenarioKind) -> list[tuple[str, str]]:
        """Return the options of the scenario picker as pairs of label and name."""
        return [(label, name) for scenario_kind, label, name in self._all if scenario_kind == kind]

    def _iter_scenarios(self) -> Iterator[tuple[ScenarioKind, str, str]]:
        """Yield kind, label and name of each scenario."""
        for profile in PROFILES.values():
            kind: ScenarioKind = "broken" if profile.ending != "finish" or profile.failing_share else "pace"
            yield kind, SCENARIO_LABELS.get(profile.name, profile.name), f"sim:{profile.name}"
        for fault in FAULTS.values():
            label = SCENARIO_LABELS.get(f"fault-{fault.name}", f"{fault.name}: {fault.description}")
            yield "broken" if fault.status is None else "refused", label, f"{_FAULT_PREFIX}{fault.name}"
        # The local model is the only real one, because it is free.
        for row in self._answer_service.list_providers():
            if row.name == LOCAL_PROVIDER:
                yield "pace", row.label, row.name

    def names(self) -> list[str]:
        """Return the names of all scenarios."""
        return [name for _, _, name in self._all]

    def kind_of(self, name: str) -> ScenarioKind:
        """Return the kind under which the picker lists a scenario."""
        return next(kind for kind, _, known in self._all if known == name)

    def check_name(self, name: str) -> str:
        """Return the name of a scenario. Raises UsageError for an unknown name."""
        if name not in self.names():
            raise UsageError(strings.UNKNOWN_SCENARIO.format(name=name))
        return name

    def new_session(self, name: str) -> Session:
        """Return a new session that plays a scenario. Its route has the scenario's name."""
        if not name.startswith(_FAULT_PREFIX):
            return self._answer_service.new_session(name)
        route = self._fault_providers().route(f"openai:fault-{name.removeprefix(_FAULT_PREFIX)}")
        return Session([replace(route, name=name)], self._answer_service.clock, timeouts=_TIMEOUTS)

    def _fault_providers(self) -> ProviderRegistry:
        if self._simulated is None:
            server = SimulatorServer(ServerOptions(choices=Defaults(profile=_ANSWER_PROFILE)))
            Thread(target=server.run, name="simulator", daemon=True).start()
            variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": _PLACEHOLDER_KEY}
            self._simulated = ProviderRegistry(Settings(variables), timeouts=_TIMEOUTS)
        return self._simulated
