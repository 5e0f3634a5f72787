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
from processes import wait_until_gone

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.slow("four searches; test_on_ray interrupts one, and test_simulator kills drivers without Ray"),
]

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


def wait_for(condition: object, process: subprocess.Popen[str], *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the search ended or hung before it was wanted:\n{process.communicate()[0]}")
        time.sleep(0.05)


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


def kill(process: subprocess.Popen[str], short_tmp: Path) -> None:
    """Kill the driver alone; its Ray must end by itself."""
    process.kill()
    process.communicate()
    assert wait_until_gone(short_tmp) == []


def damage_checkpoints(trials: Path) -> None:
    """Leave half a checkpoint in every fold that is not finished, as a disk may that lost its power."""
    for fold in (trials / str(number) / f"fold-{fold}" for number in range(TRIALS) for fold in range(K)):
        if not (fold / "result.json").exists():
            fold.mkdir(parents=True, exist_ok=True)
            checkpoint = fold / "checkpoint.pt"
            whole = checkpoint.read_bytes() if checkpoint.exists() else b"PK\x03\x04" * 100
            checkpoint.write_bytes(whole[: len(whole) // 2])


def test_a_search_that_is_killed_twice_is_finished_without_repeating_a_finished_fold(study: Path, short_tmp: Path):
    trials = study.parent / "studies" / "killed" / "trials"
    first = start(study, short_tmp)
    wait_for(lambda: list(trials.glob("*/fold-0/result.json")) and list(trials.glob("*/fold-*/checkpoint.pt")), first)
    kill(first, short_tmp)
    before = stamps(study)
    assert before, "no fold was finished when the search was killed"

    second = start(study, short_tmp)
    wait_for(lambda: len(stamps(study)) > len(before) and list(trials.glob("*/fold-*/checkpoint.pt")), second)
    kill(second, short_tmp)
    between = stamps(study)
    assert {file: between[file] for file in before} == before
    assert len(between) < TRIALS * K * 4, "the search was killed too late"
    damage_checkpoints(trials)

    third = start(study, short_tmp)
    output, _ = third.communicate(timeout=300)
    assert third.returncode == 0, output
    assert "the fold starts again" in " ".join(output.split())
    after = stamps(study)
    assert {file: after[file] for file in between} == between
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
