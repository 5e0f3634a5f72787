"""The disk is compared with what a study may write, before it trains."""

import pytest

from consilia.config.network import ModelSpec
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.study.preflight import check_disk, disk_need
from consilia.train.networks.factory import build_model

GIGABYTE = 10**9


@pytest.fixture
def plan(study_file):
    return read_plan(study_file)


@pytest.fixture
def folder(tmp_path) -> StudyFolder:
    return StudyFolder(tmp_path)


def test_a_disk_that_is_large_enough_passes(plan, folder):
    check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: 100 * GIGABYTE)


def test_the_real_disk_is_asked(plan, folder):
    check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root))


def test_a_disk_that_will_be_full_is_refused_with_need_free_space_and_ways_out(plan, folder):
    with pytest.raises(StudyError) as caught:
        check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: GIGABYTE // 10)
    for part in (str(folder.root), "0.1 GB are free", "search.keep_weights", "--studies"):
        assert part in str(caught.value)


def need_of(plan) -> int:
    largest = max(
        sum(tensor.numel() * tensor.element_size() for tensor in build_model(spec).state_dict().values())
        for architecture in plan.spaces[0].architectures.values()
        for spec in [ModelSpec(architecture=architecture, n_classes=2, channels=1)]
    )
    return disk_need(plan, largest_network=largest)


def test_the_need_is_that_of_the_largest_network(plan, folder):
    check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: need_of(plan))
    with pytest.raises(StudyError):
        check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: need_of(plan) - 1)


def test_the_need_covers_what_a_trained_study_has_written(trained):
    written = sum(path.stat().st_size for path in trained.folder.root.rglob("*") if path.is_file())
    weights = sum(path.stat().st_size for path in trained.folder.trials.rglob("*.safetensors"))
    assert disk_need(trained.plan, largest_network=weights // 2) >= written


def test_more_kept_weights_and_folds_need_more(plan):
    def need(**changes):
        search = plan.search.model_copy(update={"trials": 100, "keep_weights": 5, **changes.pop("search", {})})
        return disk_need(plan.model_copy(update={"search": search, **changes}), largest_network=GIGABYTE)

    assert need(search={"keep_weights": 6}) > need()
    assert need(folds=plan.folds.model_copy(update={"k": 3})) > need()
    assert need(search={"trials": 1}) < need()
    assert need(search={"keep_weights": 1000}) == need(search={"keep_weights": 100})


def test_what_is_stored_already_is_not_needed_again(plan, folder):
    weights = folder.trial(0).fold(0).weights
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: need_of(plan) - 1000)
    with pytest.raises(StudyError):
        check_disk(OpenStudy(plan=plan, folder=folder, stores=folder.root), free_bytes=lambda _: need_of(plan) - 1001)
