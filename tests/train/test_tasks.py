"""What a worker tries before its first trial: a node that cannot train says so, and no trial fails for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from consilia.errors import NodeFault
from consilia.study.opened import OpenStudy
from consilia.train.context import TrainingContext
from consilia.train.tasks import prove


@pytest.fixture
def context(trained, tmp_path: Path) -> TrainingContext:
    study = OpenStudy(plan=trained.plan, folder=trained.folder, stores=trained.stores)
    return replace(study.training_context("cpu"), trials=tmp_path / "trials")


def test_a_node_that_can_train_proves_it_and_leaves_no_file(context: TrainingContext):
    prove(context=context)
    assert list(context.trials.iterdir()) == []


def test_a_node_without_the_images_says_which_it_misses(context: TrainingContext, tmp_path: Path):
    with pytest.raises(NodeFault, match=f"the images in {tmp_path}/elsewhere cannot be read"):
        prove(context=replace(context, store_folder=tmp_path / "elsewhere"))


def test_a_node_with_other_images_is_found_out(context: TrainingContext):
    folds = replace(context.folds, store_digest="of other images")
    with pytest.raises(NodeFault, match="are others than the search was started with"):
        prove(context=replace(context, folds=folds))


def test_a_node_whose_device_is_gone_says_so(context: TrainingContext):
    with pytest.raises(NodeFault, match="device no_device does not compute: RuntimeError"):
        prove(context=replace(context, device="no_device"))


def test_a_node_that_cannot_write_says_where(context: TrainingContext, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(NodeFault, match=f"nothing can be written to {tmp_path}/file/trials: NotADirectoryError"):
        prove(context=replace(context, trials=tmp_path / "file" / "trials"))
