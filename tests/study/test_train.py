"""`consilia train` from end to end, without Ray."""

import json
from pathlib import Path

import pandas as pd
import pytest

from consilia import search
from consilia.cli.app import run
from consilia.config.records import TrialTask
from consilia.config.study import FoldPruning, Halving, NoStopping, Racing
from consilia.study.opened import OpenStudy
from consilia.train.job import make_job


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_training_one_configuration_leaves_every_file_of_a_finished_study(trained):
    record = json.loads(trained.folder.trial(0).record.read_text())
    assert record["state"] == "finished"
    assert [fold["fold"] for fold in record["folds"]] == [0, 1]
    for fold in (trained.folder.trial(0).fold(0), trained.folder.trial(0).fold(1)):
        assert fold.weights.is_file()
        assert not fold.checkpoint.exists()
    assert trained.folder.folds.is_file()
    report = json.loads(trained.folder.report.read_text())
    splits = [each["split"] for each in report["ensembles"]["best_single"]["evaluations"]]
    assert splits == ["cross_fitted", "test"]
    assert Path(report["ensembles"]["best_single"]["bundle"]) == trained.bundle
    assert len(trained.folder.test_openings.read_text().splitlines()) == 1


def test_every_image_outside_the_test_split_is_predicted_by_the_fold_that_held_it_out(trained):
    folds = pd.read_parquet(trained.folder.folds)
    for number in (0, 1):
        predicted = pd.read_parquet(trained.folder.trial(0).fold(number).oof)["image_id"]
        assert predicted.tolist() == folds.loc[folds["fold"] == number, "image_id"].tolist()
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()


def test_the_view_hears_every_image_epoch_and_trial(trained):
    assert trained.view.n_prepared == len(pd.read_parquet(trained.folder.folds))
    assert [(report.fold, report.epoch) for report in trained.view.epochs] == [(0, 1), (1, 1)]
    assert [record.state for record in trained.view.ended] == ["finished"]


def test_training_again_repeats_nothing(trained_copy, silent_view):
    before = times(trained_copy.folder.trials) | times(trained_copy.bundle)
    result = search(
        trained_copy.plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view
    ).result()
    assert result.bundle == trained_copy.bundle
    assert silent_view.epochs == []
    assert times(trained_copy.folder.trials) | times(trained_copy.bundle) == before
    assert len(trained_copy.folder.test_openings.read_text().splitlines()) == 1


def test_a_missing_fold_is_trained_again_and_the_finished_one_is_not(trained_copy, silent_view):
    folder = trained_copy.folder.trial(0)
    kept, lost = folder.fold(0), folder.fold(1)
    lost.result.unlink()
    folder.record.write_text(folder.record.read_text().replace('"finished"', '"running"'))
    before, lost_before = times(kept.root), times(lost.root)
    search(trained_copy.plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view)
    assert times(kept.root) == before
    assert times(lost.root)[str(lost.weights)] > lost_before[str(lost.weights)]
    assert lost.result.is_file()
    assert json.loads(folder.record.read_text())["state"] == "finished"


def test_a_bundle_whose_evaluation_was_cut_off_is_evaluated_by_the_next_start(trained_copy, silent_view):
    from consilia.bundle.reading import read_bundle
    from consilia.data.folds import load_folds
    from consilia.data.store.prepare import prepare
    from consilia.ensemble.build import build_ensemble
    from consilia.tune.stored import read_trials

    plan, folder = trained_copy.plan, trained_copy.folder
    records = list(read_trials(folder).values())
    store = prepare(plan.data, root=trained_copy.stores)
    build_ensemble(records, plan=plan, recipe=plan.ensemble, folder=folder, store=store, folds=load_folds(folder.folds))
    assert [each.split for each in read_bundle(trained_copy.bundle).evaluations] == ["cross_fitted"]
    result = search(plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view).result()
    assert [each.split for each in result.document.evaluations] == ["cross_fitted", "test"]


def test_data_that_changed_since_the_start_are_refused(trained_copy, phantoms_copy, silent_view):
    from consilia.errors import StudyError

    image = next((phantoms_copy / "images").iterdir())
    table = phantoms_copy / "metadata.csv"
    lines = [line for line in table.read_text().splitlines() if image.name not in line]
    table.write_text("\n".join(lines))
    data = trained_copy.plan.data.model_copy(update={"path": str(phantoms_copy)})
    plan = trained_copy.plan.model_copy(update={"data": data})
    with pytest.raises(StudyError, match="the data have changed"):
        search(plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view)


def test_the_same_data_in_another_place_are_the_same_study(trained_copy, phantoms_copy, silent_view):
    data = trained_copy.plan.data.model_copy(update={"path": str(phantoms_copy)})
    plan = trained_copy.plan.model_copy(update={"data": data})
    before = times(trained_copy.bundle)
    search(plan, studies=trained_copy.studies, stores=trained_copy.stores, view=silent_view)
    assert silent_view.epochs == []
    assert times(trained_copy.bundle) == before


def test_the_command_trains_to_a_bundle_and_says_where_it_lies(trained_copy, capsys):
    folders = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    assert run(["train", str(trained_copy.file), "--architecture", "test_resnet", *folders]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"bundle    {trained_copy.bundle}" in printed.out
    assert "macro AUC" in printed.out
    assert run(["trials", "tiny-train", "--studies", str(trained_copy.studies)]) == 0
    assert "test_resnet" in capsys.readouterr().out


def test_another_recipe_is_built_without_training_under_its_own_name(trained_copy, capsys):
    before = times(trained_copy.folder.trials) | times(trained_copy.bundle)
    folders = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    assert run(["ensemble", "tiny-train", "--recipe", "soft_vote", *folders]) == 0
    assert str(trained_copy.folder.bundle("soft_vote")) in capsys.readouterr().out
    assert times(trained_copy.folder.trials) | times(trained_copy.bundle) == before
    report = json.loads(trained_copy.folder.report.read_text())
    assert sorted(report["ensembles"]) == ["best_single", "soft_vote"]


def test_a_study_folder_that_was_renamed_still_gives_an_ensemble(trained_copy, capsys):
    renamed = trained_copy.folder.root.rename(trained_copy.studies / "other")
    assert run(["ensemble", str(renamed), "--recipe", "soft_vote", "--stores", str(trained_copy.stores)]) == 0
    assert [path.name for path in trained_copy.studies.iterdir()] == ["other"]
    assert (renamed / "ensembles" / "soft_vote" / "ensemble.json").is_file()


def test_evaluating_the_bundle_on_its_own_card_gives_the_numbers_of_the_study(trained, capsys):
    from consilia.bundle.reading import read_bundle

    settings = ["--set", f"path={trained.plan.data.path}", "--set", "size=32"]
    assert run(["evaluate", str(trained.bundle), "phantoms", *settings, "--stores", str(trained.stores)]) == 0
    stored = read_bundle(trained.bundle).evaluations[1].metrics["log_loss"].value
    assert f"{stored:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stopping", "rung"), [(Racing(), 17), (Halving(reduction=4), 13), (FoldPruning(), 0), (NoStopping(), 0)]
)
def test_the_epoch_at_which_trials_are_compared_is_scored_whatever_else_is_not(trained_copy, stopping, rung):
    plan = trained_copy.plan
    search = plan.search.model_copy(update={"stopping": stopping})
    training = plan.training.model_copy(update={"epochs": 50, "score_every": 25})
    changed = plan.model_copy(update={"search": search, "training": training})
    study = OpenStudy(plan=changed, folder=trained_copy.folder, stores=trained_copy.stores)
    task = TrialTask(number=0, hyperparameters=study.records()[0].hyperparameters)
    job = make_job(task, 0, study.training_context("cpu"))
    assert [epoch for epoch in range(1, 51) if job.is_scored(epoch)] == sorted({rung, 25, 50} - {0})
