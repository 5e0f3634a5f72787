"""A search that is killed goes on where it was, on a real Ray, as a user would start it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

import consilia
from consilia.data.phantoms import write_phantoms

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

TRIALS, K = 3, 2


def start(study: Path, short_tmp: Path) -> subprocess.Popen[str]:
    """Start `consilia search` in a session of its own."""
    environment = {**os.environ, "RAY_TMPDIR": str(short_tmp), "OMP_NUM_THREADS": "1"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "consilia", "search", study.name],
        cwd=study.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: object, process: subprocess.Popen[str], *, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the search ended or hung before it was wanted:\n{process.communicate()[0]}")
        time.sleep(0.05)


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names Ray's temporary folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def wait_until_gone(folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "phantoms", patients=60, size=32, seed=1)
    path = tmp_path / "study.yaml"
    plan = {
        "name": "killed",
        "data": {"card": "phantoms", "path": "phantoms", "size": 32},
        "folds": {"k": K},
        "spaces": ["tiny"],
        "search": {"trials": TRIALS},
        "training": {"epochs": 12},
    }
    path.write_text(yaml.safe_dump(plan))
    return path


def stamps(study: Path) -> dict[str, int]:
    """When each finished fold's files were written."""
    trials = study.parent / "studies" / "killed" / "trials"
    folds = [path.parent for path in trials.glob("*/fold-*/result.json")]
    return {str(file): file.stat().st_mtime_ns for fold in folds for file in fold.iterdir() if file.suffix != ".pt"}


def test_a_killed_search_is_finished_without_repeating_a_finished_fold(study: Path, short_tmp: Path):
    trials = study.parent / "studies" / "killed" / "trials"
    first = start(study, short_tmp)
    wait_for(lambda: list(trials.glob("*/fold-0/result.json")) and list(trials.glob("*/fold-*/checkpoint.pt")), first)
    first.kill()
    first.communicate()
    assert wait_until_gone(short_tmp) == []
    before = stamps(study)
    assert before, "no fold was finished when the search was killed"
    assert len(before) < TRIALS * K * 4, "the search was killed too late"

    second = start(study, short_tmp)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    after = stamps(study)
    assert {file: after[file] for file in before} == before
    assert len({Path(file).parent for file in after}) == TRIALS * K
    journal = optuna.storages.journal.JournalFileBackend(str(trials.parent / "optuna.journal"))
    states = optuna.load_study(study_name="killed", storage=optuna.storages.JournalStorage(journal)).trials
    assert [trial.state.name for trial in states] == ["COMPLETE"] * TRIALS
    assert consilia.load(trials.parent / "ensembles" / "greedy_calibrated").classes[0] == "clear"
    assert wait_until_gone(short_tmp) == []


def test_ctrl_c_ends_in_order_and_says_how_to_go_on(study: Path, short_tmp: Path):
    trials = study.parent / "studies" / "killed" / "trials"
    process = start(study, short_tmp)
    wait_for(lambda: list(trials.glob("*/fold-*/checkpoint.pt")), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert wait_until_gone(short_tmp) == []
    assert list(trials.glob("*/fold-*/checkpoint.pt")), "the checkpoint to go on from is gone"
