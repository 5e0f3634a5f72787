"""Refits on a real Ray: through slots, as trials are, and nothing is left behind."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors, list_placement_groups
from safetensors.torch import load_file

from consilia.cluster.connection import connect
from consilia.config.record_files import read_trial
from consilia.config.records import RefitProgress, TrialTask
from consilia.config.study import ClusterProfile
from consilia.config.study_folder import StudyFolder
from consilia.config.weights import FROM_SCRATCH
from consilia.data.folds import load_folds
from consilia.data.store.prepare import prepare
from consilia.study.context import training_context
from consilia.train.context import TrainingContext
from consilia.tune.capacity import Capacity, Share
from consilia.tune.ledger import read_ledger
from consilia.tune.nodes import living_nodes
from consilia.tune.refitting import refit_here, refit_in_slots

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

OURS = {"Broker", "Slot", "RayTrainWorker", "TrainController"}
PROFILE = ClusterProfile(gpus_per_slot=0)
CAPACITY = Capacity(n_slots=1, workers=1, share=Share(cpus=1, gpus=0, memory=0), exclusive=None)


class View:
    """A RefitView that remembers."""

    def __init__(self) -> None:
        self.seen: list[RefitProgress] = []
        self.notes: list[str] = []

    def refitting(self, progress: RefitProgress) -> None:
        self.seen.append(progress)

    def noted(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module", autouse=True)
def ray_on_loopback(short_tmp: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(short_tmp))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with connect(PROFILE):
            yield


def leftovers() -> tuple[set[str], int]:
    """Names of our actors that live, and the number of placement groups; both take a moment to go."""
    ours = ray.get_runtime_context().gcs_address  # other Rays may run on this machine
    deadline = time.monotonic() + 30
    while True:
        alive = {actor.class_name for actor in list_actors(address=ours, filters=[("state", "!=", "DEAD")])} & OURS
        groups = [group for group in list_placement_groups(address=ours) if group.state != "REMOVED"]
        if (not alive and not groups) or time.monotonic() > deadline:
            return alive, len(groups)
        time.sleep(0.5)


def test_refits_in_slots_have_the_weights_of_those_in_one_process_and_leave_nothing_and_are_not_repeated(
    trained, tmp_path
):
    store = prepare(trained.plan.data, root=trained.stores)
    folds = load_folds(trained.folder.folds)
    configuration = read_trial(trained.folder.trial(0).record).hyperparameters
    tasks = [
        TrialTask(number=number, hyperparameters=configuration.model_copy(update={"lr": lr}))
        for number, lr in ((0, 3e-4), (4, 3e-3))
    ]

    def copy(name: str) -> tuple[StudyFolder, TrainingContext]:
        folder = StudyFolder(Path(shutil.copytree(trained.folder.root, tmp_path / name)))
        return folder, training_context(trained.plan, store, folds, folder, device="cpu", weights=FROM_SCRATCH)

    (folder, context), (other, here) = copy("slots"), copy("here")
    view = View()
    controller = refit_in_slots(tasks, context, folder, view, profile=PROFILE, capacity=CAPACITY, nodes=living_nodes())
    assert (sorted(controller.finished), controller.failed, controller.n_open) == ([0, 4], {}, 0)
    assert view.seen[-1].n_finished == 2
    heard = {(task.number, said.epoch) for progress in view.seen for task, said in progress.running if said is not None}
    assert heard == {(0, 1), (4, 1)}
    assert refit_here(tasks, here, other, View()).finished == [0, 4]
    for number in (0, 4):
        mine, theirs = load_file(folder.trial(number).refit.weights), load_file(other.trial(number).refit.weights)
        assert all((mine[name] == theirs[name]).all() for name in theirs)
    assert leftovers() == (set(), 0)
    ledger = read_ledger(folder.ledger)
    assert sorted(ledger.loc[ledger["purpose"] == "refit", "trial"]) == [0, 4]

    stamps = [folder.trial(number).refit.weights.stat().st_mtime_ns for number in (0, 4)]
    refit_in_slots(tasks, context, folder, View(), profile=PROFILE, capacity=CAPACITY, nodes=living_nodes())
    assert [folder.trial(number).refit.weights.stat().st_mtime_ns for number in (0, 4)] == stamps
    assert leftovers() == (set(), 0)
