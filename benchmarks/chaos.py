"""One study in peace, and the same study while its processes are killed at random: are the results equal?

The study searches tiny networks on phantoms, or on the card and the path that are given, and stops no trial early, so
that both runs must finish the same folds. It has no more trials than Optuna draws at random at first: what it draws
then depends on the seed and the trial's place alone, and not on the order in which results came in. So every trial
must have the same configuration, the same folds, and in each the same scores and predictions, bit for bit.

SIGKILL goes to workers, relays, brokers, controllers of worker groups, and now and then to the driver, which is started
again at once. All of them are descendants of the driver that this program has started. When the time is over, the study
may finish.

    python benchmarks/chaos.py [--quick] [--minutes 10] [--data CARD PATH] [--seed 0]

Exits with 1 if a fold is missing, was repeated or differs, if a process is left, or if nothing was killed.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from consilia.config.record_files import read_fold_result
from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.tune.ledger import read_ledger, seconds_by_purpose
from consilia.tune.stored import read_trials
from shared.figures import print_figures

KINDS = {
    "worker": "ray::RayTrainWorker",
    "relay": "ray::Relay",
    "broker": "ray::Broker",
    "controller": "ray::TrainController",
}
WEIGHTS = {"worker": 6, "relay": 3, "broker": 3, "controller": 2, "driver": 1}
PAUSE_SECONDS, QUICK_PAUSE_SECONDS = (4.0, 12.0), (0.5, 2.0)  # between two kills
PATIENCE_SECONDS = 3600.0  # for the study to finish once the kills are over
FOLD_FILES = ("result.json", "oof.parquet", "history.parquet")  # weights go when a trial is not among the best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller study and half a minute of kills")
    parser.add_argument("--minutes", type=float, help="of kills; 10 by default")
    parser.add_argument("--data", nargs=2, metavar=("CARD", "PATH"), help="by default phantoms that are made here")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    arguments = parser.parse_args()
    minutes = arguments.minutes if arguments.minutes is not None else (0.5 if arguments.quick else 10.0)
    with tempfile.TemporaryDirectory(prefix="cc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        file = write_study(Path(folder), data=arguments.data, quick=arguments.quick)
        calm = Run(Path(folder), "calm", file)
        calm.finish()
        struck = Run(Path(folder), "struck", file)
        pause = QUICK_PAUSE_SECONDS if arguments.quick else PAUSE_SECONDS
        strike(struck, seconds=60 * minutes, pause=pause, seed=arguments.seed)
        struck.finish()
        sys.exit(report(calm, struck))


def write_study(folder: Path, *, data: tuple[str, str] | None, quick: bool) -> Path:
    """Write the study file, and phantoms where no other data are given."""
    if data is None:
        write_phantoms(folder / "phantoms", patients=60 if quick else 120, size=32, seed=1)
        data = ("phantoms", str(folder / "phantoms"))
    plan = {
        "name": "chaos",
        "data": {"card": data[0], "path": data[1], "size": 32},
        "folds": {"k": 2 if quick else 3},
        "spaces": ["tiny"],
        "search": {"trials": 3 if quick else 10, "stopping": {"kind": "none"}},
        "training": {"epochs": 30 if quick else 60, "batch_size": 16},
        "ensemble": "soft_vote",
    }
    file = folder / "chaos.yaml"
    file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return file


@dataclass
class Run:
    """One study, whose driver may be killed and started again."""

    root: Path
    name: str
    file: Path
    kills: Counter[str] = field(default_factory=Counter)
    stamps: dict[Path, tuple[int, int]] = field(default_factory=dict)  # of finished folds' files, at first sight
    rewritten: set[Path] = field(default_factory=set)
    family: set[int] = field(default_factory=set)  # all processes that its drivers were seen to have
    starts: int = 0
    seconds: float = 0.0
    driver: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> StudyFolder:
        """Files of the study."""
        return StudyFolder(self.root / self.name / "chaos")

    @property
    def log(self) -> Path:
        """The output of all drivers."""
        return self.root / f"{self.name}.log"

    def start(self) -> None:
        """Start the driver, with a Ray in a folder of its own."""
        ray_folder = self.root / f"{self.name[0]}{self.starts}"
        ray_folder.mkdir()
        settings = {**os.environ, "RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1"}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            settings.pop(name, None)
        command = [sys.executable, "-m", "consilia", "search", str(self.file)]
        command += ["--studies", str(self.root / self.name), "--stores", str(self.root / "stores")]
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1

    def finish(self) -> None:
        """Wait for the study to end, and add up its time."""
        started = time.monotonic()
        if self.driver is None:
            self.start()
        assert self.driver is not None
        self.family.update(descendants(self.driver.pid))
        try:
            code = self.driver.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_driver()
            self.left_behind()
            code = -1
        self.seconds += time.monotonic() - started
        self.look()
        if code != 0:
            sys.exit(f"the {self.name} study ended with exit code {code}:\n{self.log.read_text()[-4000:]}")

    def is_alive(self) -> bool:
        """Return whether the driver runs."""
        return self.driver is not None and self.driver.poll() is None

    def find(self, kind: str) -> list[int]:
        """Return the processes of one kind; a driver only once a worker of it trains, so that each makes progress."""
        assert self.driver is not None
        family = descendants(self.driver.pid)
        if kind == "driver":
            return [self.driver.pid] if any(command_line(pid).startswith(KINDS["worker"]) for pid in family) else []
        return sorted(pid for pid in family if command_line(pid).startswith(KINDS[kind]))

    def kill(self, kind: str, pid: int) -> None:
        """Kill one process; start a new driver in place of a killed one."""
        self.kills[kind] += 1
        if kind != "driver":
            return kill(pid)
        self.kill_driver()
        return self.start()

    def kill_driver(self) -> None:
        """Kill the driver alone; its Ray must end by itself."""
        assert self.driver is not None
        self.family.update(descendants(self.driver.pid))
        self.driver.kill()
        self.driver.wait()
        self.driver = None

    def left_behind(self) -> list[int]:
        """Wait up to a minute for all processes to end; end those that have not, and return them."""
        deadline = time.monotonic() + 60
        while (
            left := [pid for pid in self.family if str(self.root) in environment(pid)]
        ) and time.monotonic() < deadline:
            time.sleep(0.5)
        for pid in left:
            kill(pid)
        return left

    def look(self) -> None:
        """Note when finished folds were written, and which were written again."""
        for result in self.folder.trials.glob("*/fold-*/result.json"):
            for name in FOLD_FILES:
                stat = (result.parent / name).stat()
                stamp = (stat.st_ino, stat.st_mtime_ns)
                if self.stamps.setdefault(result.parent / name, stamp) != stamp:
                    self.rewritten.add(result.parent)


def strike(run: Run, *, seconds: float, pause: tuple[float, float], seed: int) -> None:
    """Kill a process every few seconds, until the time or the study is over.

    Where no process of the chosen kind runs yet, it waits for one.
    """
    chance = random.Random(seed)
    started = time.monotonic()
    run.start()
    while time.monotonic() - started < seconds:
        strikes_at = time.monotonic() + chance.uniform(*pause)
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        while run.is_alive() and (time.monotonic() < strikes_at or not (victims := run.find(kind))):
            time.sleep(0.2)
            run.look()
        if not run.is_alive():
            break
        run.kill(kind, chance.choice(victims))
    run.seconds = time.monotonic() - started


def report(calm: Run, struck: Run) -> int:
    """Print what was killed and whether the results are equal; return the exit code."""
    left, right = read_trials(calm.folder), read_trials(struck.folder)
    differing = [f"trial {number}, fold {fold}" for number in left for fold in differing_folds(calm, struck, number)]
    drawn_otherwise = [n for n in left if n not in right or left[n].hyperparameters != right[n].hyperparameters]
    not_finished = [number for number, record in right.items() if record.state != "finished"]
    n_left = len(calm.left_behind() + struck.left_behind())
    lost = seconds_by_purpose(read_ledger(struck.folder.ledger)).get("lost", 0.0)
    equal = not (differing or drawn_otherwise or not_finished or struck.rewritten or n_left) and len(left) == len(right)
    if not struck.kills:
        print(
            "Nothing was killed: the study ended before a process of a chosen kind was seen. Give it more --minutes.",
            file=sys.stderr,
        )
    n_folds = sum(record.n_folds for record in right.values())
    figures: dict[str, Any] = {
        "equal": equal,
        "kills": dict(struck.kills),
        "starts_of_the_driver": struck.starts,
        "folds_finished": n_folds,
        "folds_finished_in_peace": sum(record.n_folds for record in left.values()),
        "folds_repeated": len(struck.rewritten),
        "folds_differing": len(differing),
        "trials_drawn_otherwise": len(drawn_otherwise),
        "trials_not_finished": len(not_finished),
        "processes_left": n_left,
        "lost_s": lost,
        "calm_s": calm.seconds,
        "struck_s": struck.seconds,
    }
    rows = [(f"kills: {kind}", str(struck.kills[kind])) for kind in WEIGHTS]
    rows += [
        (name.replace("_", " "), _shown(value)) for name, value in figures.items() if name not in ("kills", "equal")
    ]
    print_figures("A study under random kills", ("", ""), [*rows, ("result equal", "yes" if equal else "NO")], figures)
    for text in differing + [
        f"trial {number}: {right[number].state} ({right[number].reason})" for number in not_finished
    ]:
        print(text, file=sys.stderr)
    return 0 if equal and struck.kills else 1


def differing_folds(calm: Run, struck: Run, number: int) -> list[int]:
    """Return the folds of a trial that are not finished in both runs with the same scores and predictions."""
    k = len(list(calm.folder.trial(number).root.glob("fold-*")))
    return [fold for fold in range(k) if _content(calm.folder, number, fold) != _content(struck.folder, number, fold)]


def _content(folder: StudyFolder, number: int, fold: int) -> tuple[Any, ...] | None:
    files = folder.trial(number).fold(fold)
    if not files.result.exists():
        return None
    result = read_fold_result(files.result)
    return result.fold, result.epochs, dict(result.metrics), hashlib.sha256(files.oof.read_bytes()).hexdigest()


def _shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def descendants(pid: int) -> list[int]:
    """Return all processes below one, nearest first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def command_line(pid: int) -> str:
    """Return the title of a process; "" once it has ended."""
    return _read(Path(f"/proc/{pid}/cmdline"))


def environment(pid: int) -> str:
    """Return what a process was started in, the folder of its Ray among it; "" once it has ended."""
    return _read(Path(f"/proc/{pid}/environ"))


def kill(pid: int) -> None:
    """Kill a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
