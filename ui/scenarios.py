"""Streams to look at in the pipeline tab: real answers, every timing profile, every fault. Always called what it is.

Profiles are played in this process. Faults need a wire to break: the simulator is started on a port of 127.0.0.1 that
the system chooses, at the first fault that is asked for, and the OpenAI adapter asks it as it would ask a service.
"""

from threading import Thread

from providers import Providers
from settings import Settings
from simulator.faults import FAULTS
from simulator.schedules import PROFILES, Profile
from simulator.server import Options, Server
from simulator.service import Choices
from streaming.errors import UsageError
from streaming.session import Session, Timeouts
from ui import texts
from ui.desk import Desk
from ui.questions import LOCAL

_TIMEOUTS = Timeouts(connect_s=2.0, first_content_s=2.0, idle_s=2.0, total_s=60.0)
"""Short, so that a visitor sees what a timeout does."""
_ANSWER = Profile("steady", ttft_s=0.4, gap_s=0.02, tokens=120)
_FAULT = "fault:"
_KEY = "none"
"""No word that the simulator says: a key is taken out of every message."""


class Scenarios:
    """Gives sessions for scenario names. Its server is a daemon thread's, and goes with the process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._simulated: Providers | None = None

    def choices(self) -> list[tuple[str, str]]:
        """Give the picker's lines: label and name."""
        # Of real models only the one that costs nobody anything: here nothing is charged to a budget.
        real = [(row.label, row.name) for row in self._desk.listing() if row.name == LOCAL]
        profiles = [(texts.SCENARIO_PROFILE.format(name=name), f"sim:{name}") for name in PROFILES]
        faults = [
            (texts.SCENARIO_FAULT.format(name=kind.name, does=kind.does), f"{_FAULT}{kind.name}")
            for kind in FAULTS.values()
        ]
        return [*profiles, *faults, *real]

    def session(self, name: str) -> Session:
        """Give a session that plays a scenario. Raises UsageError for one that is not of the list."""
        if name not in {value for _, value in self.choices()}:
            raise UsageError(texts.UNKNOWN_SCENARIO.format(name=name))
        if name.startswith(_FAULT):
            return self._faults().session([f"openai:fault-{name.removeprefix(_FAULT)}"], clock=self._desk.clock)
        return self._desk.session(name)

    def _faults(self) -> Providers:
        if self._simulated is None:
            server = Server(Options(choices=Choices(profile=_ANSWER)))
            Thread(target=server.run, name="simulator", daemon=True).start()
            variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": _KEY}
            self._simulated = Providers(Settings(variables), timeouts=_TIMEOUTS)
        return self._simulated
