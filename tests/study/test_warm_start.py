"""Earlier studies are found, checked, and read in the order of their own metric."""

from pathlib import Path

import pytest
import yaml

from consilia.config.record_files import write_trial
from consilia.config.records import TrialRecord
from consilia.config.space import Hyperparameters
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError
from consilia.study.folder import claim_folder
from consilia.study.opened import OpenStudy
from consilia.study.plan import changed_keys, plan_to_yaml, read_plan
from consilia.study.warm_start import read_warm_start as read_warm_start_of
from consilia.tune.warm_start import WarmStart


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return tmp_path / "studies"


def plan_of(study_file: Path, *settings: str, starts_from: str = "[old]") -> StudyPlan:
    return read_plan(study_file, settings=["search.trials=20", f"search.warm_start={starts_from}", *settings])


def read_warm_start(plan: StudyPlan, studies: Path) -> WarmStart:
    return read_warm_start_of(OpenStudy.of(plan, studies=studies))


def store(study_file: Path, studies: Path, *trials: tuple[str, float | None], name: str = "old", metric="log_loss"):
    """Write an earlier study whose trials have these states and objectives, each with an lr of its own."""
    plan = read_plan(study_file, settings=[f"name={name}", f"search.metric={metric}"])
    with claim_folder(plan, studies) as folder:
        for number, (state, objective) in enumerate(trials):
            configuration = Hyperparameters(architecture="test_resnet", lr=1e-3 * (number + 1), warmup=0.06)
            write_trial(
                folder.trial(number).record,
                TrialRecord(number=number, state=state, hyperparameters=configuration, objective=objective),
            )
    return folder


@pytest.mark.parametrize(("metric", "order"), [("log_loss", [2, 0, 4]), ("macro_auc", [4, 0, 2])])
def test_finished_trials_come_in_the_order_of_their_own_metric(study_file, studies, metric, order):
    trials = (("finished", 0.5), ("stopped", 0.05), ("finished", 0.1), ("failed", None), ("finished", 0.9))
    store(study_file, studies, *trials, metric=metric)
    result = read_warm_start(plan_of(study_file), studies)
    assert [start.origin for start in result.starts] == [f"warm start: old trial {number}" for number in order]
    assert (
        result.remarks[0]
        == f"warm start: {', '.join(f'trial {number} of old' for number in order)}, after the defaults"
    )


def test_without_a_warm_start_nothing_is_read_or_said(study_file, studies):
    result = read_warm_start(read_plan(study_file), studies)
    assert (result.starts, result.remarks) == ((), ())


def test_a_folder_in_the_file_starts_from_the_file_and_one_in_a_setting_from_here(study_file, tmp_path, monkeypatch):
    store(study_file, tmp_path / "elsewhere", ("finished", 0.5))
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(study_file.read_text())
    copy = tmp_path / "files" / "study.yaml"
    copy.write_text(yaml.safe_dump({**content, "search": {"trials": 20, "warm_start": ["../elsewhere/old"]}}))
    for plan in (read_plan(copy), plan_of(study_file, starts_from="[./elsewhere/old]")):
        assert Path(plan.search.warm_start[0]).is_absolute()
        (start,) = read_warm_start(plan, tmp_path / "studies").starts
        assert start.origin == "warm start: old trial 0"


def test_where_an_earlier_study_lies_does_not_change_the_plan_but_which_it_is_does(study_file):
    here, there = (plan_of(study_file, starts_from=f"[{folder}]") for folder in ("old", "/mnt/old"))
    other = plan_of(study_file, starts_from="[/mnt/other]")
    assert here.digest == there.digest != other.digest
    assert changed_keys(here, there) == []
    assert changed_keys(here, other) == ["search.warm_start: ['old'] in the study folder, ['other'] now"]


def test_the_resolved_plan_is_read_back_equal(study_file, tmp_path):
    plan = plan_of(study_file, starts_from="[old, ./other]")
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(plan_to_yaml(plan)))
    assert read_plan(path) == plan


def test_a_study_that_is_not_there_is_answered_with_those_that_are(study_file, studies):
    store(study_file, studies, ("finished", 0.5), name="older")
    for reference in ("old", "/mnt/old"):
        with pytest.raises(
            PlanError, match=rf"search\.warm_start: There is no study '{reference}'.*Studies there: older"
        ):
            read_warm_start(plan_of(study_file, starts_from=f"[{reference}]"), studies)


def test_a_study_without_a_finished_trial_is_refused_with_what_it_has(study_file, studies):
    store(study_file, studies, ("stopped", 0.5), ("stopped", 0.6), ("failed", None))
    store(study_file, studies, ("finished", 0.5), name="better")
    store(study_file, studies, name="empty")
    for reference, found in (("old", "2 stopped, 1 failed"), ("empty", "none at all")):
        with pytest.raises(PlanError, match=rf"'{reference}' has no finished trial \({found}\).* that have: better\."):
            read_warm_start(plan_of(study_file, starts_from=f"[{reference}]"), studies)


def test_a_study_does_not_start_from_itself(study_file, studies):
    store(study_file, studies, ("finished", 0.5), name="tiny")
    for reference in ("tiny", str(studies / "tiny"), str(studies / "else" / ".." / "tiny")):
        with pytest.raises(PlanError, match="is this study itself"):
            read_warm_start(plan_of(study_file, starts_from=f"[{reference}]"), studies)


def test_a_search_that_has_begun_needs_its_earlier_studies_no_more(study_file, studies):
    plan = plan_of(study_file)
    begun = TrialRecord(number=0, state="running", hyperparameters=Hyperparameters(architecture="test_resnet"))
    with pytest.raises(PlanError, match="no study 'old'"):
        read_warm_start(plan, studies)
    write_trial(StudyFolder(studies / plan.name).trial(0).record, begun)
    assert read_warm_start(plan, studies).starts == ()
