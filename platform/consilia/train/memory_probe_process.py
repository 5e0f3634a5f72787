"""A fresh process measures the steps: its memory peak is theirs, and if memory runs out, nothing else ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from consilia.errors import ClusterError
from consilia.train.device import resolve_device, set_threads
from consilia.train.faults import is_out_of_memory
from consilia.train.memory_probe import StepCase, StepMemory, measure_step

PROBE_SECONDS = 600.0  # two steps of ResNet-50 at 224 px take a minute on one CPU core
_SHOWN = 300  # characters of an error of another program


def measure_in_process(
    cases: Sequence[StepCase],
    *,
    device: str,
    n_threads: int,
    seconds: float = PROBE_SECONDS,
    python: str = sys.executable,
) -> tuple[StepMemory, ...]:
    """Return what `measure_step` measures in a Python of its own.

    The process takes the cases one after the other, and its main memory's peak is that of all so far: the largest is to
    come last.

    Args:
        cases: What is trained, the smallest first.
        device: Of torch, or "auto".
        n_threads: That the process computes with, as a slot's worker does.
        seconds: For each case; after all of them the process is ended.
        python: The interpreter.

    Raises:
        ClusterError: A step does not fit into memory, fails otherwise, or takes too long; names the architecture, its
            image size and its batch.
    """
    ended = _run([python, "-m", __name__, device, str(n_threads)], cases, n_threads, seconds)
    lines = [line for line in ended.stdout.splitlines() if line.startswith(_FIGURES)]
    if ended.returncode != 0:
        raise ClusterError(_explain(cases[len(lines)], device, ended))
    if len(lines) != len(cases):
        raise ClusterError(f"Measuring {cases[len(lines)].title} gave no figures: {ended.stdout[-_SHOWN:]!r}.")
    return tuple(StepMemory.model_validate_json(line.removeprefix(_FIGURES)) for line in lines)


def _run(
    command: list[str], cases: Sequence[StepCase], n_threads: int, seconds: float
) -> "subprocess.CompletedProcess[str]":
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # A Ray worker finds this package by a path that its children do not inherit.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    try:
        return subprocess.run(
            command,
            input="\n".join(case.model_dump_json() for case in cases),
            capture_output=True,
            text=True,
            timeout=seconds * len(cases),
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"The memory of {cases[-1].title} was to be measured before the search, but that took longer than "
            f"{seconds * len(cases):g} s.\n{_SET_YOURSELF}"
        ) from None


_FIGURES = "figures: "  # before a line of standard output that is ours
_SET_YOURSELF = "Set cluster.gpus_per_slot and cluster.memory_per_slot to numbers, so that nothing has to be measured."
_SMALLER = "Lower training.batch_size or training.image_size, or leave this architecture out."
_OUT_OF_MEMORY, _FAILED = 3, 4  # exit codes


def _explain(case: StepCase, device: str, ended: "subprocess.CompletedProcess[str]") -> str:
    words = ended.stderr.strip().rpartition("\n")[2][:_SHOWN]
    if ended.returncode in (_OUT_OF_MEMORY, -signal.SIGKILL):  # the kernel kills the process that takes the last memory
        words = words if ended.returncode == _OUT_OF_MEMORY else "the system ended the process"
        return f"{_sentence(case.title)} runs out of memory, with nothing beside it on {device}: {words}.\n{_SMALLER}"
    return f"{_sentence(case.title)} fails on {device} (exit code {ended.returncode}): {words}.\n{_SET_YOURSELF}"


def _sentence(title: str) -> str:
    return title[0].upper() + title[1:]


def _main() -> int:
    """Measure the cases on standard input, one a line; print a line of figures for each."""
    device, n_threads = sys.argv[1:]
    with contextlib.suppress(OSError):  # where there is no /proc
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # it is to be killed first
    set_threads(int(n_threads))
    try:
        for line in sys.stdin.read().splitlines():
            memory = measure_step(StepCase.model_validate_json(line), resolve_device(device))
            print(_FIGURES + memory.model_dump_json(), flush=True)
    except (MemoryError, RuntimeError) as error:
        print((str(error).strip() or type(error).__name__).splitlines()[0], file=sys.stderr)
        return _OUT_OF_MEMORY if is_out_of_memory(error) else _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
