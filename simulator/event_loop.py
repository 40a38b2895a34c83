"""A custom event loop with precise timers, because timeouts in asyncio and epoll have millisecond resolution.

The loop waits with `select`, which supports microseconds, on the selector's file descriptor. It does not sleep for less
than `_SPIN_WINDOW_S`. Due timers run first between any two callbacks.
"""

import heapq
import itertools
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from select import select
from typing import Protocol

_SPIN_WINDOW_S = 0.000_08
_IDLE_THRESHOLD_S = 0.000_5
_MAX_BUSY_S = 0.01
_MAX_WAIT_S = 0.25
_MAX_TIMERS_PER_PASS = 64


class Pollable(Protocol):
    """An object that the event loop notifies when its socket is ready."""

    def ready(self, mask: int) -> None: ...


class EventLoop:
    """A single-threaded event loop for sockets and timers.

    Only `stop` may be called from other threads or from signal handlers. The loop calls `idle` when no timer is due
    within 0.5 ms, and at least every 10 ms under load, so it must return quickly.
    """

    def __init__(self, idle: Callable[[], None]) -> None:
        self.now = time.monotonic
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._idle = idle
        self._idle_s = self.now()
        self._stopped = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, None)

    def register(self, sock: socket.socket, polled: Pollable, mask: int) -> None:
        """Call `polled.ready` for the events in `mask`. For a registered socket, replace its mask and callback."""
        if sock.fileno() in self._selector.get_map():
            self._selector.modify(sock, mask, polled)
        else:
            self._selector.register(sock, mask, polled)

    def unregister(self, sock: socket.socket) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def call_at(self, due_s: float, callback: Callable[[], None]) -> None:
        """Schedule a callback at `due_s` on CLOCK_MONOTONIC.

        Timers cannot be cancelled: the callback must check whether it is still needed.
        """
        heapq.heappush(self._timers, (due_s, next(self._order), callback))

    def stop(self) -> None:
        """Wake the event loop and make `run` return."""
        self._stopped = True
        with suppress(OSError):
            self._bell.send(b"\0")

    def run(self) -> None:
        """Run the event loop until `stop` is called."""
        waited_on = [self._selector.fileno()]
        while not self._stopped:
            self._run_timers()
            wait_s = self._compute_wait_s()
            if wait_s > _SPIN_WINDOW_S:
                select(waited_on, (), (), wait_s - _SPIN_WINDOW_S / 2)
            for key, mask in self._selector.select(0):
                if key.data is not None and self._selector.get_map().get(key.fd) is key:
                    key.data.ready(mask)
                self._run_timers()

    def close(self) -> None:
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def _run_timers(self) -> None:
        timers, now = self._timers, self.now
        for _ in range(_MAX_TIMERS_PER_PASS):  # bounded so that sockets are still read under overload
            if not timers or timers[0][0] > now():
                return
            heapq.heappop(timers)[2]()

    def _compute_wait_s(self) -> float:
        due_s = self._timers[0][0] if self._timers else self.now() + _MAX_WAIT_S
        now = self.now()
        if due_s - now > _IDLE_THRESHOLD_S or now - self._idle_s > _MAX_BUSY_S:
            self._idle()
            self._idle_s = now = self.now()
        return min(_MAX_WAIT_S, due_s - now)
