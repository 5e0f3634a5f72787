"""A study's folder belongs to one plan, and to one process at a time."""

import subprocess
import sys
import textwrap

import pytest

from consilia.config.study_folder import StudyFolder
from consilia.errors import ClusterError, DataError, PlanError, StudyError
from consilia.study.folder import claim_folder, find_study
from consilia.study.plan import read_plan, read_single_plan
from consilia.study.study import search


@pytest.fixture
def plan(study_file):
    return read_plan(study_file)


def test_a_new_folder_holds_the_plan_and_can_be_opened_again(plan, tmp_path):
    for _ in range(2):
        with claim_folder(plan, tmp_path) as folder:
            assert folder.root == tmp_path / "tiny"
            assert read_plan(folder.plan) == plan


def test_a_changed_plan_is_refused_with_its_keys_and_nothing_is_written(plan, tmp_path):
    with claim_folder(plan, tmp_path) as folder:
        pass
    before = folder.plan.read_text()
    changed = plan.model_copy(update={"seed": 9})
    with (
        pytest.raises(StudyError, match=r"Keys that differ:\n  seed: 0 in the study folder, 9 now\nGive the study"),
        claim_folder(changed, tmp_path),
    ):
        pass
    assert folder.plan.read_text() == before


def test_a_study_may_move_to_another_cluster_between_two_starts(plan, tmp_path):
    with claim_folder(plan, tmp_path):
        pass
    elsewhere = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"address": "auto"})})
    with claim_folder(elsewhere, tmp_path) as folder:
        assert folder.root == tmp_path / "tiny"


def end_wrong(plan, studies, *, made="ray", error=PlanError) -> StudyFolder:
    """Begin a study, of which something turns out to be wrong only once it has made a folder."""
    folder = StudyFolder(studies / plan.name)

    def begin() -> None:
        with claim_folder(plan, studies):
            (folder.root / made).mkdir()
            raise error("it cannot be so")

    with pytest.raises(error, match="cannot be so"):
        begin()
    return folder


@pytest.mark.parametrize("error", [PlanError, DataError, StudyError, ClusterError])
def test_a_new_study_that_is_refused_leaves_its_name_to_the_corrected_one(plan, tmp_path, error):
    end_wrong(plan, tmp_path, error=error)
    assert list(tmp_path.iterdir()) == []
    corrected = plan.model_copy(update={"seed": 9})
    with claim_folder(corrected, tmp_path) as folder:
        assert read_plan(folder.plan, networks=False) == corrected


def test_a_search_whose_folds_do_not_fit_the_data_leaves_no_folder(study_file, tmp_path):
    single = read_single_plan(study_file, settings=["folds.k=20"])
    with pytest.raises(DataError, match="k = 20 folds need 20"):
        search(single, studies=tmp_path / "studies", stores=tmp_path / "stores")
    assert list((tmp_path / "studies").iterdir()) == []


def test_a_study_is_kept_that_has_trials_or_ends_otherwise(plan, tmp_path):
    assert end_wrong(plan, tmp_path / "with trials", made="trials").plan.is_file()
    with pytest.raises(KeyboardInterrupt), claim_folder(plan, tmp_path / "interrupted") as folder:
        raise KeyboardInterrupt
    assert folder.plan.is_file()


def test_a_second_opening_is_refused_until_the_first_has_ended(plan, tmp_path):
    message = f"Another process is working in {tmp_path / 'tiny'}"
    with claim_folder(plan, tmp_path), pytest.raises(StudyError, match=message), claim_folder(plan, tmp_path):
        pass
    with claim_folder(plan, tmp_path):
        pass


def test_a_folder_held_by_another_process_is_refused_and_freed_when_that_is_killed(plan, tmp_path):
    program = f"""
        import sys
        from pathlib import Path
        from consilia.config.study_folder import StudyFolder
        from consilia.study.folder import hold_study
        with hold_study(StudyFolder(Path({str(tmp_path / "tiny")!r}))):
            print("held", flush=True)
            sys.stdin.read()
    """
    with claim_folder(plan, tmp_path):
        pass
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match="Another process"), claim_folder(plan, tmp_path):
            pass
        holder.kill()
        holder.wait()
        with claim_folder(plan, tmp_path) as folder:
            assert folder.plan.is_file()


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(plan, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"tiny exists but does not hold a study\.yaml"), claim_folder(plan, tmp_path):
        pass
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder_is_refused(plan, tmp_path):
    (tmp_path / "tiny").touch()
    with pytest.raises(StudyError, match="it is not a study"), claim_folder(plan, tmp_path):
        pass


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".study-x1.yaml"]])
def test_a_start_that_was_killed_before_its_first_file_does_no_harm(plan, tmp_path, left):
    (tmp_path / "tiny").mkdir()
    for name in left:
        (tmp_path / "tiny" / name).touch()
    with claim_folder(plan, tmp_path) as folder:
        assert read_plan(folder.plan) == plan


def test_a_study_is_found_by_its_name_its_folder_and_its_file(plan, study_file, tmp_path):
    with claim_folder(plan, tmp_path) as folder:
        pass
    for reference in ("tiny", str(folder.root), str(study_file)):
        assert find_study(reference, tmp_path) == (plan, folder)


def test_a_study_that_is_not_there_is_answered_with_those_that_are(plan, tmp_path):
    with pytest.raises(StudyError, match=r"no study 'tinny' in .*Studies there: none"):
        find_study("tinny", tmp_path)
    with claim_folder(plan, tmp_path):
        pass
    with pytest.raises(StudyError, match=r"no study 'tinny' in .*Studies there: tiny\."):
        find_study("tinny", tmp_path)
