"""The disk is compared with what a study may write, before it trains."""

import pytest

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan, read_single_plan
from consilia.study.preflight import check_disk, disk_need
from consilia.study.study import search

GIGABYTE = 10**9
NETWORK = GIGABYTE // 10


@pytest.fixture
def plan(study_file) -> StudyPlan:
    return read_plan(study_file, networks=False)


@pytest.fixture
def study(plan, tmp_path) -> OpenStudy:
    return OpenStudy(plan=plan, folder=StudyFolder(tmp_path), stores=tmp_path)


def check(study: OpenStudy, *, free: int, n_slots: int = 2) -> None:
    check_disk(study, n_slots=n_slots, largest_network=NETWORK, free_bytes=lambda _: free)


def test_the_real_disk_is_asked(study):
    check_disk(study, n_slots=1, largest_network=1)
    with pytest.raises(StudyError):
        check_disk(study, n_slots=1, largest_network=10**21)


@pytest.mark.parametrize(("n_slots", "slots"), [(1, "each of 1 slot."), (2, "each of 2 slots.")])
def test_a_disk_that_will_be_full_is_refused_with_need_free_space_and_ways_out(study, n_slots, slots):
    with pytest.raises(StudyError) as caught:
        check(study, free=NETWORK, n_slots=n_slots)
    for part in (str(study.folder.root), "0.1 GB are free", slots, "search.keep_weights", "--studies"):
        assert part in str(caught.value)


def test_exactly_the_need_is_enough(study, plan):
    need = disk_need(plan, n_slots=2, largest_network=NETWORK)
    check(study, free=need)
    with pytest.raises(StudyError):
        check(study, free=need - 1)


def test_what_is_stored_already_is_not_needed_again(study, plan):
    weights = study.folder.trial(0).fold(0).weights
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    need = disk_need(plan, n_slots=2, largest_network=NETWORK)
    check(study, free=need - 1000)
    with pytest.raises(StudyError):
        check(study, free=need - 1001)


def test_the_need_covers_what_a_trained_study_has_written(trained):
    written = sum(path.stat().st_size for path in trained.folder.root.rglob("*") if path.is_file())
    weights = sum(path.stat().st_size for path in trained.folder.trials.rglob("*.safetensors"))
    assert disk_need(trained.plan, n_slots=1, largest_network=weights // 2) >= written


def test_more_kept_weights_folds_slots_and_larger_networks_need_more(plan):
    def need(*, n_slots=2, largest_network=GIGABYTE, folds=2, **changes):
        search = plan.search.model_copy(update={"trials": 100, "keep_weights": 5, **changes})
        changed = {"search": search, "folds": plan.folds.model_copy(update={"k": folds})}
        return disk_need(plan.model_copy(update=changed), n_slots=n_slots, largest_network=largest_network)

    assert need(keep_weights=6) > need()
    assert need(folds=3) > need()
    assert need(n_slots=3) > need()
    assert need(largest_network=GIGABYTE + 1) > need()
    assert need(trials=1) < need()
    assert need(keep_weights=1000) == need(keep_weights=100)
    assert need(n_slots=1000) == need(n_slots=100)  # no more than there are trials


def test_a_single_configuration_is_not_trained_onto_a_disk_that_will_be_full(
    study_file, tmp_path, silent_view, monkeypatch
):
    monkeypatch.setattr("consilia.study.preflight._free_bytes", lambda folder: 1000)
    with pytest.raises(StudyError, match=r"0\.0 GB are free"):
        search(read_single_plan(study_file), studies=tmp_path / "studies", view=silent_view)
    assert silent_view.epochs == []
