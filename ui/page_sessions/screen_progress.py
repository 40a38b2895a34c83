"""How far a browser is behind the updates that it was sent, by what it reports to have drawn. No I/O."""

import math

from ui.page_sessions.update_pacer import UPDATES_PER_S

MAX_WAITING = 6
"""Updates that may wait to be drawn, however long the way of a report takes."""
MAX_SILENCE_S = 0.5
"""Time between two updates for a browser that has stopped reporting: it may be hidden, its report lost, or its
processor too busy to draw. A reader hardly notices such a pause, and a drawn update brings the next report."""


class ScreenProgress:
    """The updates of one page that were sent and drawn, by number from 1. Timestamps are on the caller's clock.

    A browser on a busy machine draws fewer updates than it is sent. While more of them wait than one and those that are
    on their way, the next one is held back; what arrives meanwhile is in it, so that the page shows the newest state as
    soon as it can. How many are on their way follows from the shortest time that a report has taken: on this machine
    one, far away some more. A browser that falls silent is sent one update in `MAX_SILENCE_S`, so that they do not pile
    up where it is too busy to draw; one that has never reported is sent every update.
    """

    def __init__(self) -> None:
        self._sent = 0
        self._sent_s = float("-inf")
        self._drawn = 0
        self._heard_s = float("-inf")
        self._timed: tuple[int, float] | None = None
        """The update whose report is timed, and when it was sent."""
        self._shortest_s = float("inf")

    def send(self, now: float) -> int:
        """Return the number of the update that is sent now."""
        self._sent += 1
        self._sent_s = now
        self._timed = self._timed or (self._sent, now)
        return self._sent

    def report(self, drawn: int, now: float) -> None:
        """Record that the browser has drawn all updates up to this number."""
        if not self._drawn < drawn <= self._sent:
            return
        self._drawn = drawn
        self._heard_s = now
        if self._timed is not None and self._timed[0] <= drawn:
            self._shortest_s = min(self._shortest_s, now - self._timed[1])
            self._timed = None

    def is_behind(self, now: float) -> bool:
        """Return whether the next update is to be held back."""
        if self._drawn == 0:
            return False
        is_recent = now - max(self._heard_s, self._sent_s) < MAX_SILENCE_S
        return is_recent and self._sent - self._drawn > min(MAX_WAITING, math.ceil(UPDATES_PER_S * self._shortest_s))
