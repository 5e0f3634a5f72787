"""The Python API: what `consilia` exports, what its tables hold, and that it prints nothing."""

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

import consilia
from consilia.config.recipe import EnsembleRecipe, SoftVote
from consilia.config.record_files import read_trial, write_trial
from consilia.config.space import Hyperparameters
from consilia.metrics.scores import METRICS
from consilia.report.trials import board_to_csv
from consilia.study.plan import read_plan
from consilia.study.view import SILENT, default_view

HEAVY = {"torch", "ray", "pandas", "numpy", "matplotlib", "optuna", "timm", "pydantic", "rich", "typer"}
ROOMS = {path.stem for path in Path(consilia.__file__).parent.iterdir() if not path.stem.startswith("__")}
GENEROUS_SECONDS = 2.0  # it takes a twentieth of a second


@pytest.fixture
def study(trained_copy) -> consilia.Study:
    return consilia.open_study(trained_copy.plan.name, studies=trained_copy.studies, stores=trained_copy.stores)


def openings(study: consilia.Study) -> int:
    return len(study.folder.test_openings.read_text().splitlines())


def test_importing_consilia_imports_nothing_heavy_and_takes_no_time():
    program = f"""
import resource, sys
import consilia
print(sorted({HEAVY!r} & sys.modules.keys()), resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules, _, seconds = done.stdout.strip().rpartition(" ")
    assert modules == "[]"
    assert float(seconds) < GENEROUS_SECONDS


def test_trials_are_listed_without_what_takes_seconds_to_import(trained):
    program = f"""
import sys
import consilia
HEAVY = {{"torch", "timm", "sklearn", "matplotlib", "captum", "ray", "scipy", "pandas", "pyarrow", "pydicom", "optuna"}}
study = consilia.open_study({str(trained.folder.root)!r})
from consilia.cli.show_trials import show_trials
show_trials(study.board())
print(sorted(HEAVY & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "finished" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_trials_of_a_network_that_timm_no_longer_knows_can_still_be_read(trained_copy):
    stored = trained_copy.folder.plan
    stored.write_text(stored.read_text().replace("timm: test_resnet", "timm: forgotten"))
    study = consilia.open_study(trained_copy.folder.root)
    assert list(study.trials()["state"]) == ["finished"]
    with pytest.raises(consilia.PlanError, match="forgotten"):
        consilia.search(stored, studies=trained_copy.studies, stores=trained_copy.stores)


def test_an_ensemble_that_was_built_before_a_trial_had_finished_is_built_again(study, trained_copy):
    assert study.fit().document.honesty.candidates == 1
    first, second = (trained_copy.folder.trial(number) for number in (0, 1))
    shutil.copytree(first.record.parent, second.record.parent)
    write_trial(second.record, replace(read_trial(first.record), number=1))
    assert study.fit().document.honesty.candidates == 2


def test_every_public_name_is_there_and_documented_and_none_is_that_of_a_room():
    assert set(consilia.__all__) == set(dir(consilia))
    for name in consilia.__all__:
        thing = getattr(consilia, name)
        assert name == "__version__" or thing.__doc__, name
    assert ROOMS.isdisjoint(consilia.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = consilia.serch


def test_trials_is_a_row_a_trial_with_the_columns_of_the_csv(study):
    table = study.trials()
    record = read_trial(study.folder.trial(0).record)
    assert list(table.columns) == [
        *("trial", "state", "metric", "objective", "fold_0", "fold_1"),
        *Hyperparameters.model_fields,
        *("seconds", "reason"),
    ]
    assert list(table.columns) == board_to_csv(study.board()).splitlines()[0].split(",")
    assert table[["trial", "state", "metric", "objective"]].values.tolist() == [
        [0, "finished", "log_loss", record.objective]
    ]
    assert table.loc[0, ["fold_0", "fold_1"]].tolist() == [fold.metrics["log_loss"] for fold in record.folds]
    assert table.loc[0, "architecture"] == "test_resnet"


def test_history_is_a_row_an_epoch_and_fold(study):
    table = study.history(0)
    assert list(table.columns) == ["fold", "epoch", "train_loss", "lr", "seconds", "images", *METRICS]
    assert table[["fold", "epoch"]].values.tolist() == [[0, 1], [1, 1]]
    record = read_trial(study.folder.trial(0).record)
    assert table["log_loss"].tolist() == [fold.metrics["log_loss"] for fold in record.folds]


def test_a_study_without_trials_has_empty_tables_with_the_same_columns(study):
    for fold in range(2):
        study.folder.trial(0).fold(fold).history.unlink()
    assert study.history(0).empty
    assert list(study.history(0).columns[:2]) == ["fold", "epoch"]
    study.folder.trial(0).record.unlink()
    assert study.trials().empty
    assert list(study.trials().columns[:4]) == ["trial", "state", "metric", "objective"]
    with pytest.raises(consilia.StudyError, match="has no trial 0; it has no trials yet"):
        study.history(0)


def test_a_trial_that_is_not_there_is_answered_with_those_that_are(study):
    with pytest.raises(consilia.StudyError, match=r"has no trial 7; its trials are 0 \.\.\. 0"):
        study.history(7)


def test_the_studys_own_ensemble_is_loaded_and_another_is_built_by_name_file_or_recipe(study, tmp_path):
    image = next((Path(study.plan.data.path) / "images").iterdir())
    own = study.predictor(device="cpu")
    assert isinstance(own, consilia.EnsemblePredictor)
    with pytest.raises(consilia.StudyError, match=r"no ensemble 'best_singel'\. Did you mean 'best_single'\?"):
        study.predictor("best_singel")
    recipe = EnsembleRecipe(name="mine", selection=SoftVote(members=1))
    file = tmp_path / "file.yaml"
    file.write_text(recipe.model_copy(update={"name": "filed"}).model_dump_json())
    for given, name in (("soft_vote", "soft_vote"), (file, "filed"), (recipe, "mine")):
        with pytest.raises(consilia.StudyError, match=f"has no ensemble '{name}'"):
            study.predictor(given)
        fitted = study.fit(given, device="cpu")
        assert fitted.document.provenance.recipe.name == name
        again = study.predictor(given, device="cpu").predict([image])[0]
        assert isinstance(again, consilia.Prediction)
        assert again == fitted.predict([image])[0]
    with pytest.raises(consilia.PlanError, match=r"soft_voet.*Did you mean 'soft_vote'"):
        study.fit("soft_voet")
    with pytest.raises(consilia.StudyError, match="ships networks that are trained on all"):
        study.fit("fast")


def test_evaluate_is_what_was_measured_and_opens_nothing(study):
    before = openings(study)
    table = study.evaluate()
    assert list(table.columns) == ["split", "unit", "metric", "value", "low", "high", "uncalibrated"]
    assert openings(study) == before
    for evaluation in study.result().document.evaluations:
        rows = table[(table["split"] == evaluation.split) & (table["unit"] == "image")].set_index("metric")
        assert set(rows.index) == set(evaluation.metrics)
        estimate = evaluation.metrics["log_loss"]
        assert rows.loc["log_loss", ["value", "low", "high"]].tolist() == [estimate.value, estimate.low, estimate.high]
        assert rows.loc["log_loss", "uncalibrated"] == evaluation.uncalibrated["log_loss"].value
        assert pd.isna(rows.loc["accuracy", "uncalibrated"])
    assert set(table["split"]) == {"test", "cross_fitted"}
    assert set(table["unit"]) == {"image", "patient"}


def test_a_figure_is_drawn_on_the_test_split_which_is_opened_once_for_all_kinds(study):
    before = openings(study)
    for kind in ("reliability", "roc", "confusion"):
        assert isinstance(study.figure(kind, device="cpu"), Figure)
    assert openings(study) == before + 1
    counts = sum(int(text.get_text().split()[0]) for text in study.figure("confusion").axes[0].texts)
    assert counts == len(study.folds.test)


def test_a_figure_that_is_not_there_is_answered_with_those_that_are(study):
    before = openings(study)
    with pytest.raises(consilia.UserError, match=r"got 'reliabilty'\. Did you mean 'reliability'\?"):
        study.figure("reliabilty")
    assert openings(study) == before
    with pytest.raises(consilia.UserError, match=r"error_correlation compares members.*Draw one of reliability"):
        study.figure("error_correlation", device="cpu")


def test_a_study_is_opened_by_folder_name_or_file_and_its_stores_lie_beside_the_studies(trained, monkeypatch):
    by_folder = consilia.open_study(trained.folder.root)
    assert by_folder.stores == trained.stores
    assert by_folder.store.digest == by_folder.folds.store_digest
    assert repr(by_folder) == f"Study('tiny-train', '{trained.folder.root}')"
    monkeypatch.chdir(trained.studies.parent)
    by_name = consilia.open_study("tiny-train")
    assert (by_name.plan, by_name.folder, by_name.stores) == (by_folder.plan, by_folder.folder, by_folder.stores)
    with pytest.raises(consilia.StudyError, match="Studies there: tiny-train"):
        consilia.open_study("tinny")


def test_a_study_cannot_be_changed(study):
    with pytest.raises(AttributeError):
        study.plan = None


def test_settings_in_python_mean_what_they_mean_on_the_command_line(study_file, tmp_path):
    settings = {
        "search.trials": 5,
        "search.budget.hours": None,
        "training": {"epochs": 3},
        "spaces": ("resnet",),
        "seed": 7,
        "data.path": tmp_path,
        "data.max_bad": 1e-5,
        "cluster.weights": "yes",  # a text, though YAML would read a truth value
    }
    texts = ["search.trials=5", "training={epochs: 3}", "spaces=[resnet]", "seed=7", f"data.path={tmp_path}"]
    plan = read_plan(study_file, settings=settings)
    assert plan == read_plan(study_file, settings=[*texts, "data.max_bad=0.00001", "cluster.weights='yes'"])
    assert consilia.change_plan(read_plan(study_file), settings) == plan
    with pytest.raises(consilia.PlanError, match=r"'search\.trails'.*Did you mean 'trials'"):
        consilia.search(study_file, **{"search.trails": 5})
    with pytest.raises(consilia.PlanError, match="seed must be a plain value"):
        consilia.search(study_file, seed=object())


def test_a_script_prints_nothing_and_a_finished_study_is_returned_again(trained_copy, capfd, monkeypatch):
    monkeypatch.chdir(trained_copy.studies.parent)
    level = logging.getLogger("consilia").level
    study = consilia.search(trained_copy.plan, stores=trained_copy.stores)
    assert study.name == "tiny-train"
    assert study.view is SILENT
    assert json.loads(study.result().report.read_text())["study"] == "tiny-train"
    study.fit("soft_vote", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("consilia").level == level


class Notebook:
    """Stands in for IPython in a kernel."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def get_ipython(self) -> SimpleNamespace:
        return SimpleNamespace(kernel=object())

    def display(self, picture: str, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        self.shown.append(picture)
        return SimpleNamespace(update=self.shown.append)


@pytest.fixture
def notebook(monkeypatch) -> Notebook:
    kernel = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=kernel.display))
    return kernel


def test_a_notebook_shows_a_bar_that_ends_full(study_file, trained, notebook, tmp_path, capfd):
    plan = consilia.read_single_plan(study_file, architecture="test_resnet", settings={"search.budget.hours": 1})
    consilia.search(plan, studies=tmp_path, stores=trained.stores)
    assert capfd.readouterr() == ("", "")
    assert notebook.shown[-1].startswith('<progress value="2" max="2"')
    assert "1 of 1 trials, 0 running, best log_loss " in notebook.shown[-1]


def test_a_terminal_with_ipython_is_not_a_notebook(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert default_view(trained.plan) is SILENT
