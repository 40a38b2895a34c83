"""The service's limits in time and memory, passed to `create_app`."""

from dataclasses import dataclass

from guard.request_body import BODY_TIMEOUT_S
from server.streams.buffer import DEFAULT_LIMITS, BufferLimits
from server.streams.replication_intervals import DEFAULT_INTERVALS, ReplicationIntervals


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Limits of resumable streams and their replication; a request's body must arrive within `body_timeout_s`."""

    buffer: BufferLimits = DEFAULT_LIMITS
    replication: ReplicationIntervals = DEFAULT_INTERVALS
    body_timeout_s: float = BODY_TIMEOUT_S


DEFAULT_SERVICE_LIMITS = ServiceLimits()
