"""Refits on a real Ray: through slots, as trials are, and nothing is left behind."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from consilia.config.record_files import read_trial
from consilia.config.records import RefitProgress, TrialTask
from consilia.config.study_folder import StudyFolder
from consilia.study.opened import OpenStudy
from consilia.train.context import TrainingContext
from consilia.tune.capacity import Capacity, Share
from consilia.tune.ledger import read_ledger
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.refit_controller import RefitController
from consilia.tune.refitting import refit_here, refit_in_slots
from consilia.tune.worker_groups import WorkerGroups
from processes import wait_until_idle

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_on_loopback"),
    pytest.mark.slow(
        "starts slots twice; slots take refits as they take trials, and test_refit trains them without Ray"
    ),
]

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


def refit_on_ray(tasks: list[TrialTask], context: TrainingContext, folder: StudyFolder, view: View) -> RefitController:
    with WorkerGroups() as groups:
        groups.settle(CAPACITY, LiveSlots(CAPACITY, living_nodes, limit=1, seen=living_nodes()))
        return refit_in_slots(tasks, context, folder, view, capacity=CAPACITY, groups=groups)


def test_refits_in_slots_have_the_weights_of_those_in_one_process_and_leave_nothing_and_are_not_repeated(
    trained, tmp_path, ray_folder
):
    configuration = read_trial(trained.folder.trial(0).record).hyperparameters
    tasks = [
        TrialTask(number=number, hyperparameters=configuration.model_copy(update={"lr": lr}))
        for number, lr in ((0, 3e-4), (4, 3e-3))
    ]

    def copy(name: str) -> tuple[StudyFolder, TrainingContext]:
        folder = StudyFolder(Path(shutil.copytree(trained.folder.root, tmp_path / name)))
        return folder, OpenStudy(plan=trained.plan, folder=folder, stores=trained.stores).training_context("cpu")

    (folder, context), (other, here) = copy("slots"), copy("here")
    view = View()
    controller = refit_on_ray(tasks, context, folder, view)
    assert (sorted(controller.finished), controller.failed, controller.n_open) == ([0, 4], {}, 0)
    assert view.seen[-1].n_finished == 2
    heard = {(task.number, said.epoch) for progress in view.seen for task, said in progress.running if said is not None}
    assert heard == {(0, 1), (4, 1)}
    assert refit_here(tasks, here, other, View()).finished == [0, 4]
    for number in (0, 4):
        mine, theirs = load_file(folder.trial(number).refit.weights), load_file(other.trial(number).refit.weights)
        assert all((mine[name] == theirs[name]).all() for name in theirs)
    assert wait_until_idle(ray_folder) == (set(), [], {})
    ledger = read_ledger(folder.ledger)
    assert sorted(ledger.loc[ledger["purpose"] == "refit", "trial"]) == [0, 4]

    stamps = [folder.trial(number).refit.weights.stat().st_mtime_ns for number in (0, 4)]
    refit_on_ray(tasks, context, folder, View())
    assert [folder.trial(number).refit.weights.stat().st_mtime_ns for number in (0, 4)] == stamps
    assert wait_until_idle(ray_folder) == (set(), [], {})
