"""Keeps the processor for an instrument: what it measures must not be its own waiting for one."""

import os


def take_real_time_priority() -> bool:
    """Have this process run before ordinary ones, where the system allows it (root on Linux); say whether it does.

    For short runs that wait most of the time. Where a server on the same machine has real-time priority, as the
    simulator takes it, a client without waits behind it on one processor while another is idle.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (OSError, AttributeError):
        return False
    return True
