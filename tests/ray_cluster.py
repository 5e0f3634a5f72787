"""A Ray cluster of several nodes on loopback, for tests that lose nodes or hide files from them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

from processes import command_line, processes_of, wait_until_gone

HEAD = "127.0.0.2"
NAMESPACE = ("unshare", "--map-root-user", "--mount")  # a process that sees other mounts than its parent


def can_hide_folders() -> bool:
    """Say whether this machine lets a process have mounts of its own."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass
class Cluster:
    """A head on loopback and more nodes, each with one CPU for a slot."""

    folder: Path
    port: int
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """For drivers."""
        return f"{HEAD}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of its nodes and of drivers: no token, and the modules that workers import."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        return {**kept, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def add(self, address: str, *, hidden: Path | None = None, tmpdir: Path | None = None) -> None:
        """Start a node; the first is the head.

        Args:
            address: Its own.
            hidden: A folder that its processes find empty; needs a mount namespace.
            tmpdir: Its folder for temporary files, in place of this machine's.
        """
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={address}"]
        command += ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
        if address == HEAD:
            command += ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
            command += self.head_options()
        else:
            command += [f"--address={HEAD}:{self.port}"]
        if hidden is not None:
            hide = f"mount -t tmpfs none {shlex.quote(str(hidden))} && exec {shlex.join(command)}"
            command = [*NAMESPACE, "sh", "-c", hide]
        environment = self.environment | ({"TMPDIR": str(tmpdir)} if tmpdir else {})
        quiet = subprocess.DEVNULL
        self.started[address] = subprocess.Popen(
            command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def head_options(self) -> list[str]:
        """Return what else `ray start` is told of the head."""
        return ["--system-config", json.dumps({"worker_maximum_startup_concurrency": 16})]

    def wait_for(self, *addresses: str, seconds: float = 120) -> None:
        """Wait until these nodes have joined."""
        program = (
            f"import ray, time\nray.init(address={self.address!r}, log_to_driver=False)\n"
            f"while not {set(addresses)!r} <= {{n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']}}:\n"
            "    time.sleep(0.2)"
        )
        subprocess.run([sys.executable, "-c", program], env=self.environment, check=True, timeout=seconds)

    def lose(self, address: str) -> None:
        """Kill every process of a node, as a machine does that loses its power."""
        raylets = [pid for pid in processes_of(self.folder) if f"--node_ip_address={address}" in command_line(pid)]
        assert raylets, f"no node at {address}"
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)  # its workers end with it

    def end(self) -> None:
        """Kill what is left."""
        for process in self.started.values():
            process.kill()
            process.wait()
        for pid in processes_of(self.folder):
            os.kill(pid, signal.SIGKILL)
        assert wait_until_gone(self.folder) == []

    @classmethod
    @contextmanager
    def at(cls, folder: Path) -> Iterator["Cluster"]:
        """Start a head, and end every node at the end.

        Args:
            folder: With a short name; Ray's sockets lie in it.
        """
        with socket() as probe:
            probe.bind((HEAD, 0))
            port = probe.getsockname()[1]
        cluster = cls(Path(tempfile.mkdtemp(prefix="n", dir=folder)), port)
        try:
            cluster.add(HEAD)
            yield cluster
        finally:
            cluster.end()
