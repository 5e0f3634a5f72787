"""Processes of a Ray that was started in a folder of its own."""

import time
from pathlib import Path

OURS = {"Broker", "Relay", "RayTrainWorker", "TrainController"}


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names Ray's temporary folder."""
    return [pid for pid in _pids() if str(folder) in command_line(pid)]


def wait_until_gone(folder: Path) -> list[int]:
    """Wait up to a minute for them to end, and return those that are left."""
    deadline = time.monotonic() + 60
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def wait_until_idle(folder: Path) -> tuple[set[str], list[str], dict[int, str]]:
    """Wait until the connected Ray runs nothing of consilia; return the actors, placement groups and processes left."""
    import ray
    from ray.util.state import list_actors, list_placement_groups

    ours = ray.get_runtime_context().gcs_address  # other Rays may run on this machine
    deadline = time.monotonic() + 30
    while True:
        actors = {actor.class_name for actor in list_actors(address=ours, filters=[("state", "!=", "DEAD")])} & OURS
        groups = [group for group in list_placement_groups(address=ours) if group.state != "REMOVED"]
        processes = actors_of(folder, OURS)
        if not (actors or groups or processes) or time.monotonic() > deadline:
            return actors, groups, processes
        time.sleep(0.3)


def actors_of(folder: Path, names: set[str]) -> dict[int, str]:
    """Processes of actors of these classes, which are children of a raylet that names the folder; class by process."""
    raylets = {pid for pid in processes_of(folder) if "raylet/raylet" in command_line(pid)}
    found = {}
    for pid in _pids():
        line = command_line(pid)
        name = line.removeprefix("ray::").partition(".")[0].partition("(")[0].strip("\0 ")
        if line.startswith("ray::") and name in names and _parent(pid) in raylets:
            found[pid] = name
    return found


def children_of(parent: int) -> list[str]:
    """Return the command lines of a process's children."""
    return [command_line(pid) for pid in _pids() if _parent(pid) == parent]


def command_line(pid: int) -> str:
    """Return what a process was started with, or the title it gave itself; "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]
