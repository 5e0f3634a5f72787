"""What a job runs on its node: look for the study's files, then search, again if the search was killed.

    python -m consilia.cluster.entrypoint STUDY.yaml --retries 2 --studies DIR --stores DIR

Its output is the job's log. Other arguments than --retries are those of `consilia search`.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import yaml

from consilia.cluster.paths import describe_missing

FOUND = "found the study's files on "  # begins a line of the log; `ClusterJobs.await_start` looks for it
_TOLD = (0, 1, 2, 130)  # exit codes of a search that has said why it ends; another run would end as this one did
_PAUSE_SECONDS = 15  # Ray takes some seconds to free the slots of a driver that is gone


def main(arguments: Sequence[str]) -> int:
    """Run the job.

    Returns:
        The exit code of the last search, 128 and the signal's number if one ended it; 2 if a file is missing.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--retries", type=int, default=0)
    options, others = parser.parse_known_args(arguments)
    stop = _Stop()
    plan = yaml.safe_load(options.study.read_text(encoding="utf-8"))
    node = socket.gethostname()
    if missing := describe_missing(plan, options.study.absolute().parent, node=node):
        print(f"consilia: {missing}", file=sys.stderr)
        return 2
    print(f"{FOUND}{node}", flush=True)
    command = [sys.executable, "-m", "consilia", "search", str(options.study), *others]
    code = run_attempts(lambda: subprocess.call(command), retries=options.retries, stopped=stop.is_asked)
    return code if code >= 0 else 128 - code


def run_attempts(
    attempt: Callable[[], int],
    *,
    retries: int,
    stopped: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Run a search, and again while it is killed or crashes: it goes on from its files.

    Args:
        attempt: Runs the search and returns its exit code; negative: the signal that ended it.
        retries: How often it may be run again.
        stopped: Says whether somebody has asked the job to stop.
        pause: Waits for so many seconds.

    Returns:
        The exit code of the last attempt.
    """
    code = attempt()
    for number in range(2, retries + 2):
        if code in _TOLD or stopped():
            return code
        print(f"attempt {number} of {retries + 1}: the search {_how(code)}, and goes on from its files", flush=True)
        for _ in range(_PAUSE_SECONDS):
            if not stopped():
                pause(1)
        if stopped():
            return code
        code = attempt()
    return code


class _Stop:
    """Notes the signal that stops a job. Ray sends it to the search too, which ends in order while this one waits."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def is_asked(self) -> bool:
        return self._asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def _how(code: int) -> str:
    if code >= 0:
        return f"crashed with exit code {code}"
    known = [each.name for each in signal.Signals if each == -code]
    return f"was ended by {known[0] if known else f'signal {-code}'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
