"""optuna-dashboard opens a study's journal while the search writes it: asked through its HTTP interface, in-process."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest

from consilia.config.catalog import load
from consilia.config.records import FoldResult, TrialRecord, TrialTask
from consilia.config.space import SearchSpace
from consilia.tune.space import JointSpace, join_spaces
from consilia.tune.suggester import OptunaSuggester
from consilia.tune.warm_start import Start

Get = Callable[[str], Any]


@pytest.fixture(scope="module")
def space() -> JointSpace:
    return join_spaces([load("search_spaces", "tiny", SearchSpace, base=Path.cwd())], weights="none")


def open_dashboard(journal: Path) -> Get:
    """Open the dashboard as its command does with a file's name; returns what GETs a path as JSON."""
    application = optuna_dashboard.wsgi(str(journal))

    def get(path: str) -> Any:
        statuses: list[str] = []
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
        }
        body = b"".join(application(environment, lambda status, headers, *_: statuses.append(status)))
        assert statuses == ["200 OK"], body
        return json.loads(body)

    return get


def end(suggester: OptunaSuggester, task: TrialTask, state: str, *scores: float, reason: str = "") -> None:
    folds = tuple(
        FoldResult(fold=fold, epochs=2, metrics={"log_loss": score}, n_images=5, seconds=1.0)
        for fold, score in enumerate(scores)
    )
    record = TrialRecord(
        number=task.number,
        state=state,
        hyperparameters=task.hyperparameters,
        folds=folds,
        objective=sum(scores) / len(scores) if scores else None,
        reason=reason,
    )
    suggester.tell(record, metric="log_loss")


def attributes(trial: dict[str, Any]) -> dict[str, str]:
    """What a trial's page shows: text as it is, anything else as JSON."""
    return {each["key"]: each["value"] for each in trial["user_attrs"]}


def parameters(trial: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["param_external_value"] for each in trial["params"]}


def test_the_dashboard_follows_a_search_that_is_running(tmp_path: Path, space: JointSpace):
    start = Start(values=space.defaults("test_resnet") | {"lr": 0.005}, origin="warm start: old trial 7")
    journal = tmp_path / "optuna.journal"
    suggester = OptunaSuggester(journal, space, name="mine", seed=0, higher_is_better=False, starts=(start,))
    get = open_dashboard(journal)  # before the first trial, as one that is kept open beside the search
    tasks = [suggester.ask() for _ in range(4)]
    end(suggester, tasks[0], "finished", 0.5, 0.25)
    end(suggester, tasks[1], "stopped", 0.875, reason="fold 1: rank 8 of 8")
    end(suggester, tasks[2], "failed", reason="the loss is not finite")

    (study,) = get("/api/studies")["study_summaries"]
    assert (study["study_name"], study["directions"]) == ("mine", ["minimize"])
    trials = get(f"/api/studies/{study['study_id']}")["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned", "Fail", "Running"]
    assert [trial.get("values") for trial in trials] == [[0.375], [0.875], None, None]
    assert [attributes(trial).get("fold_scores") for trial in trials] == ["[0.5, 0.25]", "[0.875]", "[]", None]
    assert [attributes(trial).get("n_folds") for trial in trials] == ["2", "1", "0", None]
    assert attributes(trials[1])["stopped_by"] == "fold 1: rank 8 of 8"
    assert attributes(trials[2])["failed_by"] == "the loss is not finite"
    assert [attributes(trial)["origin"] for trial in trials] == [*["defaults"] * 3, "warm start: old trial 7"]
    for task, trial in zip(tasks, trials, strict=True):
        searched = space.draw(lambda name, _, task=task: getattr(task.hyperparameters, name))
        assert parameters(trial) == {name: str(value) for name, value in searched.items()}

    end(suggester, tasks[3], "finished", 0.125, 0.125)
    last = wait_for_the_end(lambda: get(f"/api/studies/{study['study_id']}")["trials"][3])
    assert (last["values"], attributes(last)["fold_scores"]) == ([0.125], "[0.125, 0.125]")


def wait_for_the_end(trial: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask again until the trial does not run any more: the dashboard keeps what it has read for two seconds."""
    deadline = time.monotonic() + 60
    while (found := trial())["state"] == "Running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found["state"] == "Complete"
    return found


def test_a_study_of_auc_is_shown_as_one_to_be_raised(tmp_path: Path, space: JointSpace):
    journal = tmp_path / "optuna.journal"
    OptunaSuggester(journal, space, name="mine", seed=0, higher_is_better=True)
    (study,) = open_dashboard(journal)("/api/studies")["study_summaries"]
    assert study["directions"] == ["maximize"]
