"""`export mlflow`: what a study's files say, once, however often it is exported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import consilia
from consilia.cli.app import run
from consilia.config.record_files import read_trial, write_trial
from consilia.train.tables import read_history

# MLflow remarks about its own type hints when its models are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")


@pytest.fixture
def uri(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture
def study(trained_copy):
    """A study of a finished trial, a failed one, and one that is paused."""
    folder = trained_copy.folder
    record = read_trial(folder.trial(0).record)
    for number, state in ((1, "failed"), (2, "paused")):
        shutil.copytree(folder.trial(0).root, folder.trial(number).root)
        other = replace(record, number=number, state=state, objective=None, reason="so it was", folds=record.folds[:1])
        write_trial(folder.trial(number).record, other)
    return consilia.open_study(folder.root, stores=trained_copy.stores)


def runs_of(uri, study) -> tuple:
    """Return the client, the study's run, and the trials' runs by number."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("consilia").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.info.run_name == study.name
    children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    by_number = {int(each.data.tags["consilia.trial"]): each for each in children}
    assert len(by_number) == len(children)  # no trial has two
    return client, parent, by_number


def files_below(folder) -> dict:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_every_trial_that_has_ended_is_a_run_with_what_its_files_say(study, uri):
    done = consilia.export_mlflow(study, tracking_uri=uri)
    assert (done.is_changed, done.n_new, done.n_known, done.n_open) == (True, 2, 0, 1)
    client, parent, children = runs_of(uri, study)
    assert (parent.info.run_id, parent.info.status) == (done.run, "FINISHED")
    assert {number: each.info.status for number, each in children.items()} == {0: "FINISHED", 1: "FAILED"}
    stored, found = json.loads(study.folder.trial(0).record.read_text()), children[0].data
    assert found.metrics["objective"] == found.metrics["log_loss"] == stored["objective"]
    for fold in stored["folds"]:
        metrics = {name: value for name, value in fold["metrics"].items() if value is not None}
        assert {name: found.metrics[f"fold_{fold['fold']}/{name}"] for name in metrics} == metrics
    wanted = {name: str(value) for name, value in stored["hyperparameters"].items() if value is not None}
    assert found.params == wanted
    history = read_history(study.folder.trial(0).fold(1).history)
    curve = client.get_metric_history(children[0].info.run_id, "fold_1/epochs/train_loss")
    expected = list(zip(history["epoch"], history["train_loss"], strict=True))
    assert [(each.step, each.value) for each in curve] == expected != []
    assert "objective" not in children[1].data.metrics
    assert children[1].data.tags["consilia.reason"] == "so it was"


def test_the_study_s_run_has_its_files_and_the_ensemble_s_scores(study, uri, trained):
    consilia.export_mlflow(study, tracking_uri=uri)
    client, parent, _ = runs_of(uri, study)
    assert {"study.yaml", "report.json", "card.md"} <= {each.path for each in client.list_artifacts(parent.info.run_id)}
    scores = study.evaluate().query("unit == 'image'").dropna(subset="value")
    assert len(scores) > 0
    for row in scores.itertuples():
        assert parent.data.metrics[f"{row.split}/{row.metric}"] == row.value


def test_a_second_export_changes_no_byte(study, uri, tmp_path):
    consilia.export_mlflow(study, tracking_uri=uri)
    before = files_below(tmp_path / "mlruns")
    done = consilia.export_mlflow(study, tracking_uri=uri)
    assert (done.is_changed, done.n_new, done.n_known) == (False, 0, 2)
    assert files_below(tmp_path / "mlruns") == before


def test_a_study_that_went_on_has_its_new_trial_added_and_its_old_ones_left(study, uri):
    consilia.export_mlflow(study, tracking_uri=uri)
    old = {number: each.info.run_id for number, each in runs_of(uri, study)[2].items()}
    record = study.folder.trial(2).record
    write_trial(record, replace(read_trial(record), state="stopped", objective=0.5))
    study.folder.report.write_text('{"of": "three trials"}')
    search = study.plan.search.model_copy(update={"trials": 9})
    longer = replace(study, plan=study.plan.model_copy(update={"search": search}))
    done = consilia.export_mlflow(longer, tracking_uri=uri)
    assert (done.is_changed, done.n_new, done.n_known, done.n_open) == (True, 1, 2, 0)
    client, parent, children = runs_of(uri, study)
    assert {number: children[number].info.run_id for number in old} == old
    assert children[2].data.metrics["objective"] == 0.5
    report = Path(client.download_artifacts(parent.info.run_id, "report.json"))
    assert json.loads(report.read_text()) == {"of": "three trials"}


def test_a_trial_s_run_that_was_left_half_is_logged_anew(study, uri):
    consilia.export_mlflow(study, tracking_uri=uri)
    client, _, children = runs_of(uri, study)
    half = children[0].info.run_id
    client.delete_tag(half, "consilia.content")
    done = consilia.export_mlflow(study, tracking_uri=uri)
    assert (done.n_new, done.n_known, done.is_changed) == (1, 1, False)
    whole = runs_of(uri, study)[2][0]
    assert whole.info.run_id != half
    assert whole.data.metrics == children[0].data.metrics


def test_the_pyfunc_model_is_the_ensemble_and_holds_no_pickle(study, trained, uri, phantoms, tmp_path):
    import mlflow.pyfunc

    consilia.export_mlflow(study, tracking_uri=uri)
    _, parent, _ = runs_of(uri, study)
    model = mlflow.pyfunc.load_model(f"{parent.info.artifact_uri}/model")
    images = [str(path) for path in sorted(phantoms.rglob("*.png"))[:3]]
    found = model.predict(pd.DataFrame({"image": images}))
    expected = consilia.load(trained.bundle).predict(images).to_frame()
    pd.testing.assert_frame_equal(found, expected)
    assert np.ptp(expected["confidence"]) > 0
    suffixes = {path.suffix for path in (tmp_path / "mlruns").rglob("model/**/*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt"}


def test_the_command_says_what_it_has_added_and_why_mlflow_cannot(study, uri, capsys, monkeypatch):
    ask = ["export", "mlflow", str(study.folder.root), "--tracking-uri", uri]
    assert run(ask) == 0
    assert "2 new, 0 there before, 1 not ended yet" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    assert run([*ask[:-1], f"{uri}-of-others"]) == 2  # MLflow keeps stores that it has opened
    printed = capsys.readouterr().err
    assert printed.startswith(f"consilia: MLflow cannot take the study at {uri}-of-others: ")
    assert printed.count("\n") == 1
