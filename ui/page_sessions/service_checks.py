"""Whether services can be reached, and which models they offer, by their answers to a request for their models."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from providers.models.source import ProviderSource
from streaming.clock import Clock
from streaming.errors import AuthenticationError, StreamError, StreamgaugeError
from ui import strings
from ui.form import MAX_MODEL_CHARS

CHECK_TIMEOUT_S = 10.0
"""How long a service may take to list its models. The first list also imports its library."""
SUCCESS_AGE_S = 600.0
"""How long a list of models is used before it is requested again."""
FAILURE_AGE_S = 30.0
"""How long a failed request is not repeated, so that a page cannot send many."""
MAX_MODELS = 1000
"""Maximum number of models in a menu."""
_STATUSES_WITHOUT_LIST = frozenset({404, 405, 501})
"""Statuses of a service that was reached but has no list of models."""


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """What is known of a service: its models, and `problem`, why it cannot be used.

    `reached`: it has listed its models; False when it could not be asked, None when that is not known.
    """

    reached: bool | None = None
    models: tuple[str, ...] = ()
    problem: str = ""


class ServiceChecks:
    """The latest checks of services by provider, for one set of providers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._checks: dict[str, tuple[float, ServiceCheck]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def find(self, provider: str) -> ServiceCheck:
        """Return the latest check that is recent enough; one that knows nothing if there is none."""
        return self._find_recent(provider) or ServiceCheck()

    async def check(self, provider: str, providers: ProviderSource) -> ServiceCheck:
        """Return a recent check; without one, ask the service for its models, one request at a time."""
        async with self._locks.setdefault(provider, asyncio.Lock()):
            found = self._find_recent(provider)
            if found is None:
                found = await _check_service(provider, providers)
                self._checks[provider] = (self._clock(), found)
            return found

    def _find_recent(self, provider: str) -> ServiceCheck | None:
        at_s, check = self._checks.get(provider, (float("-inf"), ServiceCheck()))
        age_s = SUCCESS_AGE_S if check.reached else FAILURE_AGE_S
        return check if self._clock() - at_s <= age_s else None


async def _check_service(provider: str, providers: ProviderSource) -> ServiceCheck:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            models = await providers.find_models(provider)
    except TimeoutError:
        return ServiceCheck(False, problem=strings.UNREACHED.format(why=strings.NO_LIST.format(s=CHECK_TIMEOUT_S)))
    except AuthenticationError as error:
        return ServiceCheck(False, problem=strings.KEY_REFUSED.format(why=error))
    except StreamgaugeError as error:
        if isinstance(error, StreamError) and error.http_status in _STATUSES_WITHOUT_LIST:
            return ServiceCheck()
        return ServiceCheck(False, problem=strings.UNREACHED.format(why=error))
    names = _select_names(model.name for model in models)
    # A service without a list has not been asked at all, which an empty one does not tell apart.
    return ServiceCheck(True if names else None, names)


def _select_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that the form accepts, each once, in the service's order."""
    usable = (name for name in names if name.strip() and len(name) <= MAX_MODEL_CHARS and name.isprintable())
    return tuple(dict.fromkeys(usable))[:MAX_MODELS]
