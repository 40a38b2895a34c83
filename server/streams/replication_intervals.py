"""How often and how long the replication of streams does what; it is read without Redis' client."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicationIntervals:
    """The intervals and timeouts of the replication, in seconds.

    One read from Redis waits `poll_s` for events, and the writer is notified as often that its stream is read. A reader
    gives up after Redis was unavailable for `writer_timeout_s`. A replica counts as running for `heartbeat_ttl_s` after
    its last heartbeat. The copy of a stream in Redis may be behind what a reader has already received for
    `max_copy_lag_s`, or for the timeout of Redis where that is longer; a reply of another replica is waited for
    `reply_timeout_s`.
    """

    poll_s: float = 5.0
    writer_timeout_s: float = 30.0
    heartbeat_s: float = 5.0
    heartbeat_ttl_s: float = 15.0
    retry_s: float = 1.0
    max_copy_lag_s: float = 1.0
    reply_timeout_s: float = 2.0


DEFAULT_INTERVALS = ReplicationIntervals()
