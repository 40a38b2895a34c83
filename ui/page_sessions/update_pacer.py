"""The rate at which a page is updated, shared by all answers that it shows. No I/O."""

UPDATES_PER_S = 15.0
"""Updates of one page per second: more than a reader can tell apart, and fewer than a slow browser can draw."""


class UpdatePacer:
    """The times at which the answers of one page may be drawn next: in turn, at most `per_s` updates a second in total.

    An answer that waits for its turn goes on being received, so its next update shows the newest state.
    """

    def __init__(self, per_s: float = UPDATES_PER_S) -> None:
        self._interval_s = 1 / per_s
        self._free_s = float("-inf")

    def reserve(self, now: float) -> float:
        """Reserve the next update; return the time in seconds, at or after `now`, at which it is due."""
        due_s = max(now, self._free_s)
        self._free_s = due_s + self._interval_s
        return due_s
