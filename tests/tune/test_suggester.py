"""Optuna's side: the journal is the truth, and a seed decides everything."""

import resource
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from search_records import task

from consilia.config.catalog import load
from consilia.config.records import FoldResult, TrialRecord, TrialState, TrialTask
from consilia.config.space import Hyperparameters, SearchSpace
from consilia.tune.space import JointSpace, join_spaces
from consilia.tune.suggester import TOLD_BEFORE_TPE, OneConfiguration, OptunaSuggester
from consilia.tune.warm_start import Start


@pytest.fixture(scope="module")
def space() -> JointSpace:
    return join_spaces([load("search_spaces", "tiny", SearchSpace, base=Path.cwd())], weights="none")


def open_suggester(path: Path, space: JointSpace, *, seed: int = 0, starts: Sequence[Start] = ()) -> OptunaSuggester:
    return OptunaSuggester(path, space, name="study", seed=seed, higher_is_better=False, starts=starts)


def ended(task: TrialTask, state: TrialState, objective: float | None, **more: object) -> TrialRecord:
    return TrialRecord(
        number=task.number, state=state, hyperparameters=task.hyperparameters, objective=objective, **more
    )


def folds(*scores: float) -> tuple[FoldResult, ...]:
    return tuple(
        FoldResult(fold=fold, epochs=2, metrics={"log_loss": score}, n_images=5, seconds=1)
        for fold, score in enumerate(scores)
    )


def load_journal(path: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name="study", storage=storage)


def test_the_defaults_of_every_family_come_first(tmp_path: Path, space: JointSpace):
    suggester = open_suggester(tmp_path / "journal", space)
    first = [suggester.ask().hyperparameters.model_dump() for _ in space.start_with]
    for name, found in zip(space.start_with, first, strict=True):
        assert {key: found[key] for key in space.defaults(name)} == space.defaults(name)


def test_the_same_seed_suggests_the_same_and_another_does_not(tmp_path: Path, space: JointSpace):
    def suggestions(file: str, seed: int) -> list[object]:
        suggester = open_suggester(tmp_path / file, space, seed=seed)
        return [suggester.ask().hyperparameters for _ in range(8)]

    assert suggestions("a", 0) == suggestions("b", 0)
    assert suggestions("c", 1)[3:] != suggestions("d", 0)[3:]


@pytest.mark.parametrize("n_slots", [1, 8, 16, 41])
def test_tpe_suggests_once_ten_trials_are_told_however_many_run_beside_them(
    tmp_path: Path, space: JointSpace, n_slots: int
):
    def suggestions(file: str, objective: Callable[[Hyperparameters], float]) -> list[Hyperparameters]:
        suggester, running, asked = open_suggester(tmp_path / file, space), deque[TrialTask](), []
        for _ in range(60):
            if len(running) == n_slots:
                oldest = running.popleft()
                suggester.tell(ended(oldest, "finished", objective(oldest.hyperparameters)), metric="log_loss")
            running.append(suggester.ask())
            asked.append(running[-1].hyperparameters)
        return asked

    one, other = suggestions("one", lambda each: each.lr), suggestions("other", lambda each: -each.lr)
    differ = [first != second for first, second in zip(one, other, strict=True)]  # a random one asks for no score
    first = n_slots + TOLD_BEFORE_TPE - 1  # each is asked for as soon as the one before it is told
    assert not any(differ[:first])
    assert sum(differ[first:]) > 0.9 * (60 - first)


def test_a_stopped_trial_is_pruned_and_a_crashed_one_failed(tmp_path: Path, space: JointSpace):
    suggester = open_suggester(tmp_path / "journal", space)
    finished, halved, stopped, failed = (suggester.ask() for _ in range(4))
    suggester.tell(ended(finished, "finished", 0.5, folds=folds(0.4, 0.6)), metric="log_loss")
    suggester.tell(ended(halved, "stopped", 0.3, reason="rank 8 of 8"), metric="log_loss")
    suggester.tell(ended(stopped, "stopped", 0.9, folds=folds(0.75)), metric="log_loss")
    suggester.tell(ended(failed, "failed", None, reason="the loss is not finite"), metric="log_loss")
    study = load_journal(tmp_path / "journal")
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL"]
    assert [trial.value for trial in trials] == [0.5, 0.3, 0.9, None]
    assert [trial.intermediate_values for trial in trials] == [{1: 0.4, 2: 0.5}, {0: 0.3}, {1: 0.9}, {}]
    assert study.best_trial.number == finished.number
    assert trials[0].user_attrs["fold_scores"] == [0.4, 0.6]
    assert [trial.user_attrs["n_folds"] for trial in trials] == [2, 0, 1, 0]
    assert trials[1].user_attrs["stopped_by"] == "rank 8 of 8"
    assert trials[3].user_attrs["failed_by"] == "the loss is not finite"


def test_a_stopped_trial_that_an_earlier_version_told_as_complete_stays_so(tmp_path: Path, space: JointSpace):
    before = open_suggester(tmp_path / "journal", space)
    old = before.ask()
    load_journal(tmp_path / "journal").tell(old.number, 0.7)
    before.tell(ended(before.ask(), "stopped", 0.6), metric="log_loss")
    after = open_suggester(tmp_path / "journal", space)
    assert (after.unfinished(), after.n_asked) == ([], 2)
    assert after.ask().number == 2
    trials = load_journal(tmp_path / "journal").trials
    assert [trial.state.name for trial in trials[:2]] == ["COMPLETE", "PRUNED"]


def test_a_trial_whose_process_died_comes_back_with_its_number_and_configuration(tmp_path: Path, space: JointSpace):
    before = open_suggester(tmp_path / "journal", space)
    lost, told = before.ask(), before.ask()
    before.tell(ended(told, "finished", 0.3), metric="log_loss")
    after = open_suggester(tmp_path / "journal", space)
    assert list(after.unfinished()) == [lost]
    assert after.n_asked == 2
    after.tell(ended(lost, "finished", 0.2), metric="log_loss")
    assert after.unfinished() == []


def test_a_search_that_was_interrupted_draws_what_it_would_have_drawn(tmp_path: Path, space: JointSpace):
    whole = open_suggester(tmp_path / "whole", space)
    expected = [whole.ask().hyperparameters for _ in range(8)]
    drawn = []
    for _ in range(4):
        resumed = open_suggester(tmp_path / "parts", space)
        drawn += [resumed.ask().hyperparameters for _ in range(2)]
    assert drawn == expected
    assert len(set(drawn)) == 8


@pytest.mark.parametrize("n_queued", [0, 1, 2])
def test_a_driver_killed_while_it_queued_the_first_trials_loses_none_of_them(
    tmp_path: Path, space: JointSpace, n_queued: int
):
    starts = [Start(values=space.defaults(space.start_with[0]) | {"lr": 0.002}, origin="warm start: other trial 3")]
    whole = open_suggester(tmp_path / "whole", space, starts=starts)
    first = load_journal(tmp_path / "whole").trials
    cut = (tmp_path / "whole").read_bytes().splitlines(keepends=True)[: n_queued - len(first)]
    (tmp_path / "cut").write_bytes(b"".join(cut))
    assert len(load_journal(tmp_path / "cut").trials) == n_queued
    resumed = open_suggester(tmp_path / "cut", space, starts=starts)
    trials = load_journal(tmp_path / "cut").trials
    assert [trial.user_attrs["origin"] for trial in trials] == [trial.user_attrs["origin"] for trial in first]
    assert [resumed.ask() for _ in range(8)] == [whole.ask() for _ in range(8)]


def test_a_trial_killed_while_it_was_drawn_counts_as_failed(tmp_path: Path, space: JointSpace):
    open_suggester(tmp_path / "journal", space)
    study = load_journal(tmp_path / "journal")
    study.enqueue_trial({})
    for _ in range(len(space.start_with)):
        study.tell(study.ask(), 0.5)
    study.ask()  # nothing is drawn
    after = open_suggester(tmp_path / "journal", space)
    assert after.unfinished() == []
    assert load_journal(tmp_path / "journal").trials[-1].state.name == "FAIL"


def test_a_write_that_fits_the_disk_only_half_leaves_a_journal_that_can_be_read(tmp_path: Path, space: JointSpace):
    path = tmp_path / "journal"
    suggester = open_suggester(path, space)
    tasks = [suggester.ask(), suggester.ask()]
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            suggester.tell(ended(tasks[0], "finished", 0.5), metric="log_loss")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    suggester.tell(ended(tasks[1], "finished", 0.5), metric="log_loss")
    assert [trial.state.name for trial in load_journal(path).trials[:2]] == ["RUNNING", "COMPLETE"]


def test_one_configuration_is_asked_once_and_resumed_while_it_runs():
    chosen = task(0).hyperparameters
    fresh = OneConfiguration(chosen, known={})
    assert (fresh.n_asked, fresh.unfinished(), fresh.ask()) == (0, [], task(0))
    running = OneConfiguration(chosen, known={0: ended(task(0), "running", None)})
    assert (running.n_asked, running.unfinished()) == (1, [task(0)])
    done = OneConfiguration(chosen, known={0: ended(task(0), "finished", 0.1)})
    assert (done.n_asked, done.unfinished()) == (1, [])


def test_failed_trials_are_tried_again_once_each_and_count_for_one(tmp_path: Path, space: JointSpace):
    suggester = open_suggester(tmp_path / "journal", space)
    records = {}
    for number, state in enumerate(["finished", "failed", "failed", "finished"]):
        asked = suggester.ask()
        records[number] = ended(asked, state, 0.5 if state == "finished" else None)
        suggester.tell(records[number], metric="log_loss")
    for _ in range(2):  # the second time, all of them have been queued
        resumed = open_suggester(tmp_path / "journal", space)
        resumed.retry(records)
        assert resumed.n_asked == 2
    again = [resumed.ask(), resumed.ask()]
    assert [each.number for each in again] == [4, 5]
    assert [each.hyperparameters for each in again] == [records[number].hyperparameters for number in (1, 2)]
    assert resumed.n_asked == 4
    records[4] = ended(again[0], "failed", None)
    resumed.tell(records[4], metric="log_loss")
    resumed.retry(records)
    assert resumed.ask().hyperparameters == records[1].hyperparameters


def test_a_search_draws_what_it_would_have_drawn_whether_failed_trials_were_tried_again_or_not(
    tmp_path: Path, space: JointSpace
):
    drawn = []
    for name in ("again", "not"):
        suggester = open_suggester(tmp_path / name, space)
        first = [suggester.ask() for _ in range(4)]
        record = ended(first[0], "failed", None)
        suggester.tell(record, metric="log_loss")
        suggester = open_suggester(tmp_path / name, space)
        if name == "again":
            suggester.retry({0: record})
            suggester.ask()
        else:
            suggester.ask()
        drawn.append(suggester.ask().hyperparameters)
    assert drawn[0] == drawn[1]
