"""A node of a two-node cluster is lost during a search, and another one comes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from played_trials import EPOCHS, K, PlayedStudy, always, score_of, wait_for_nodes
from search_records import Diary

from consilia.cluster.connection import connect
from consilia.config.study import ClusterProfile
from consilia.config.study_folder import StudyFolder
from consilia.tune.capacity import plan_capacity
from consilia.tune.demand import Demand
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.stored import read_trials
from ray_cluster import HEAD, Cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.slow("three Rays; test_live and test_simulator lose nodes and test_controller slots without one"),
]

SECOND, THIRD = "127.0.0.3", "127.0.0.4"
N_TRIALS = 8


@pytest.fixture
def cluster(short_tmp: Path) -> Iterator[Cluster]:
    with Cluster.at(short_tmp) as cluster:
        cluster.add(SECOND)
        yield cluster


def drive(address: str, root: Path) -> None:
    """Search on the cluster, in a process of its own; as many slots as its nodes hold at each moment."""
    profile = ClusterProfile(address=address, gpus_per_slot=0)
    with connect(profile):
        nodes = living_nodes()
        capacity = plan_capacity(nodes, profile, demand=Demand(gpus=0, memory=0), n_trials=N_TRIALS)
        live = LiveSlots(capacity, living_nodes, limit=N_TRIALS, seen=nodes)
        study_in(root).search(Diary(root / "diary"), slots=N_TRIALS, live=live)


def study_in(root: Path) -> PlayedStudy:
    """The first two trials wait for each other's node, and all others for the node that comes late."""
    early = always(partial(wait_for_nodes, (HEAD, SECOND)), fold=0, epoch=3)
    late = always(partial(wait_for_nodes, (THIRD,)), fold=0, epoch=3)
    faults = {number: early if number < 2 else late for number in range(N_TRIALS)}
    folder = StudyFolder(root / "study")
    return PlayedStudy(folder=folder, marks=root, faults=faults, n_trials=N_TRIALS, notes_node=True)


def wait_for(text: str, path: Path, driver: subprocess.Popen[bytes], *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while text not in (said := path.read_text() if path.exists() else ""):
        assert driver.poll() is None, "the driver ended"
        assert time.monotonic() < deadline, f"no {text!r} in:\n{said}"
        time.sleep(0.2)


def nodes_of_epochs(root: Path) -> list[str]:
    """Return the node of every computed epoch, in order."""
    return [line.split()[-1] for line in (root / "computed").read_text().splitlines()]


def test_a_lost_nodes_trials_go_on_elsewhere_and_a_new_node_is_used(cluster: Cluster, tmp_path: Path):
    code = f"import test_lost_node as t; t.drive({cluster.address!r}, t.Path({str(tmp_path)!r}))"
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen([sys.executable, "-c", code], env=cluster.environment, stdout=log, stderr=log)
    try:
        wait_for(SECOND, tmp_path / "computed", driver)
        wait_for(HEAD, tmp_path / "computed", driver)
        cluster.lose(SECOND)
        wait_for("lost", tmp_path / "diary", driver)
        cluster.add(THIRD)
        assert driver.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    finally:
        driver.kill()
        driver.wait()
    study = study_in(tmp_path)
    records = read_trials(study.folder)
    assert [record.state for record in records.values()] == ["finished"] * N_TRIALS
    for record in records.values():
        scores = [score_of(record, fold.fold, EPOCHS) for fold in record.folds]
        assert [fold.metrics["log_loss"] for fold in record.folds] == scores
    assert len(study.computed()) == len(set(study.computed())) == N_TRIALS * K * EPOCHS
    used = nodes_of_epochs(tmp_path)
    assert set(used) == {HEAD, SECOND, THIRD}, json.dumps(used)
