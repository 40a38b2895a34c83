"""Timestamped connections that stay open between requests, for measurements with keep-alive."""

from collections import defaultdict

from streaming.http.connection import Origin, TimestampedConnection
from streaming.http.timestamped_sockets import TimestampingSelector


class KeepAliveSelector(TimestampingSelector):
    """Timestamping sockets whose connections are used again; a plain selector opens one for each request."""

    def __init__(self) -> None:
        super().__init__()
        self._idle: dict[Origin, list[TimestampedConnection]] = defaultdict(list)

    def take(self, origin: Origin) -> TimestampedConnection | None:
        """Return an open connection to `origin` that nobody uses, the last one first; None if there is none."""
        return self._idle[origin].pop() if self._idle[origin] else None

    def put(self, origin: Origin, connection: TimestampedConnection) -> None:
        """Keep a connection whose response is complete. It is closed if the peer ends it, or sends anything."""
        idle = self._idle[origin]

        def drop(*_: object) -> None:
            if connection in idle:
                idle.remove(connection)
            connection.close()

        connection.rebind(drop, drop)
        idle.append(connection)

    def close(self) -> None:
        """Close the idle connections and all sockets. Safe to call twice."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        super().close()
