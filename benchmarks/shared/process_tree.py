"""Run a command and record what it and all its descendants use: CPU-seconds and memory, about once a second.

Reads /proc, so it needs Linux. A process stays in the tree when its parent has ended. What a process computes between
the last sample and its end is not seen: half a second of it on average.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROC = Path("/proc")

_INTERVAL_SECONDS = 1.0
_SAMPLING_SHARE = 0.02  # of one core, at most: on a slow machine samples are taken less often
_GRACE_SECONDS = 60.0  # between Ctrl-C and the kill
_LEFTOVER_SECONDS = 15.0  # for daemons that end by themselves a little later
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Identity = tuple[int, int]  # pid, and the tick at which it started: pids are used again


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used, sample by sample, from its start to its end or to the limit."""

    started: float  # as time.time()
    seconds: tuple[float, ...]  # since then, one per sample
    cpu_seconds: tuple[float, ...]  # of all processes so far, one per sample
    memory_bytes: tuple[int, ...]  # of all living processes, one per sample
    n_processes: int  # most at a time
    limited: bool  # whether the limit ended it
    sampling_seconds: float  # that taking the samples cost

    def cpu_until(self, seconds: float) -> float:
        """Return the CPU-seconds used so many seconds after the start."""
        return float(np.interp(seconds, (0.0, *self.seconds), (0.0, *self.cpu_seconds)))

    def peak_until(self, seconds: float) -> int:
        """Return the most memory of any sample so far, bytes."""
        return max(
            m for t, m in zip(self.seconds, self.memory_bytes, strict=True) if t <= seconds or t == self.seconds[0]
        )


class ProcessTree:
    """A process and all that descend from it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._cpu: dict[Identity, float] = {}  # of every process ever seen

    def sample(self) -> tuple[float, int, int]:
        """Return CPU-seconds so far, bytes of memory and number of processes."""
        living = self.living()
        return sum(self._cpu.values()), sum(memory_of(pid) for pid, _ in living), len(living)

    def living(self) -> list[Identity]:
        """Return the processes of the tree that run now, and remember them with their CPU-seconds."""
        found = dict(_processes())
        by_parent: dict[int, list[Identity]] = {}
        for identity, (parent, _) in found.items():
            by_parent.setdefault(parent, []).append(identity)
        todo = [each for each in found if each in self._cpu or (each[0] == self._root and not self._cpu)]
        tree: set[Identity] = set()
        while todo:
            identity = todo.pop()
            if identity not in tree:
                tree.add(identity)
                todo.extend(by_parent.get(identity[0], ()))
        self._cpu.update({identity: found[identity][1] for identity in tree})
        return sorted(tree)

    def kill(self) -> None:
        """End what still runs."""
        for pid, _ in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run_watched(command: Sequence[str], *, environment: Mapping[str, str], log: Path, limit: float) -> Usage:
    """Run a command for at most `limit` seconds, then end it as Ctrl-C does; nothing of it is left behind.

    Raises:
        SystemExit: It failed before the limit; with the end of what it printed.
    """
    seconds: list[float] = []
    samples: list[tuple[float, int, int]] = []
    started, sampling = time.time(), 0.0
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
    tree = ProcessTree(process.pid)
    try:
        while process.poll() is None and time.time() - started < limit:
            before = time.time()
            samples.append(tree.sample())
            seconds.append(before - started)
            sampling += (cost := time.time() - before)
            pause = max(_INTERVAL_SECONDS, cost / _SAMPLING_SHARE)
            _wait(process, min(pause, max(0.0, started + limit - time.time())))
        if limited := process.poll() is None:
            seconds.append(time.time() - started)
            samples.append(tree.sample())
    finally:
        _end(process, tree)
    if not limited and process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    cpu, memory, counts = zip(*samples, strict=True)
    return Usage(started, tuple(seconds), cpu, memory, max(counts), limited, sampling)


def _heed_ctrl_c() -> None:
    """Hear Ctrl-C, which background jobs of a script ignore; the kernel sends it when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _end(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    """Let the process end in order, then all that it has started, then kill what is left."""
    try:
        if process.poll() is None:
            tree.living()
            process.send_signal(signal.SIGINT)
            _wait(process, _GRACE_SECONDS)
        deadline = time.time() + _LEFTOVER_SECONDS
        while process.poll() is not None and tree.living() and time.time() < deadline:
            time.sleep(0.2)
    finally:
        tree.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _processes() -> Iterator[tuple[Identity, tuple[int, float]]]:
    """Yield every process of the machine with its parent and its own CPU-seconds; zombies have ended."""
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything
        if fields[0] != "Z":
            yield (int(entry.name), int(fields[19])), (int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)


def memory_of(pid: int) -> int:
    """Return a process's share of memory (PSS), or what it holds resident where the kernel does not tell its share."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError):
        return int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return 0
