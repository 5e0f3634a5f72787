"""How many processors this process may use."""

import os


def usable_cpus() -> int:
    """Return the processors that this process may run on, at least 1; in a container often fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
