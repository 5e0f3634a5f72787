"""Searches in processes of their own, which tests watch, interrupt and kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def start(root: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python with `arguments` in a session of its own, and with these variables beside the present ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds; fail with the output of a process that ends or hangs before."""
    deadline = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the search ended or hung before it was wanted:\n{process.communicate()}")
        time.sleep(0.05)
