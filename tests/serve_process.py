"""`consilia serve` in a process of its own, as people start it."""

import os
import signal
import subprocess
import sys
from pathlib import Path


class ServerProcess:
    """`consilia serve` as people start it, on a port that is free."""

    def __init__(self, bundle: Path, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "consilia", "serve", str(bundle), "--device", "cpu", "--port", "0", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = self.process.stdout.readline()
        if not self.said:
            raise AssertionError(self.process.communicate())
        self.url = self.said.split(" is served at ")[1].split(" until ")[0]

    def end(self) -> tuple[int, str, str]:
        """Press Ctrl-C; return the exit code and what else was printed to both streams."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=60)
            return self.process.returncode, self.process.stdout.read(), self.process.stderr.read()
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
