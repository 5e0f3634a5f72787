"""Runs a benchmark as people do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(name: str, *arguments: str, timeout: float = 280, **environment: str) -> dict[str, Any]:
    """Return the figures that a benchmark prints last, of its quick kind."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--quick", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
