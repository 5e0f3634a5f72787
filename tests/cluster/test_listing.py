"""How far a job has come is read from the very lines that a search prints."""

import io

import pytest
from rich.console import Console

from consilia.cluster.listing import describe_study, find_farewell, summarise
from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Hyperparameters
from consilia.report.progress import StudyProgress


def metadata(metric: str = "log_loss") -> dict[str, str]:
    return describe_study({"name": "small", "search": {"metric": metric, "trials": 9}})


def record(number: int, state: str, objective: float | None = None) -> TrialRecord:
    fold = FoldResult(fold=0, epochs=4, metrics={"log_loss": 0.5}, n_images=10, seconds=8.0)
    return TrialRecord(
        number=number,
        state=state,
        hyperparameters=Hyperparameters(architecture="resnet18", lr=3e-4),
        folds=(fold,),
        objective=objective,
        reason="",
        seconds=24.0,
    )


class Log:
    """What a search prints where there is no terminal."""

    def __init__(self, metric: str = "log_loss") -> None:
        self._metric, self._output = metric, io.StringIO()

    def search(self, *ended: TrialRecord, stored: tuple[TrialRecord, ...] = ()) -> "Log":
        console = Console(file=self._output, width=80)
        with StudyProgress(console, metric=self._metric, epochs=4, n_folds=3) as view:
            view.search_started(n_trials=9, n_slots=2, records=stored)
            for each in ended:
                view.trial_ended(each)
        return self

    def __str__(self) -> str:
        return self._output.getvalue()


@pytest.mark.parametrize(("metric", "best"), [("log_loss", 0.25), ("macro_auc", 0.75)])
def test_the_best_finished_trial_and_the_number_of_ended_ones_are_read(metric, best):
    log = Log(metric).search(
        record(0, "finished", 0.75), record(1, "finished", 0.25), record(2, "stopped", 0.01), record(3, "failed")
    )
    found = summarise("small-1", "RUNNING", metadata(metric), str(log))
    assert (found.study, found.metric, found.best, found.n_done, found.n_trials) == ("small", metric, best, 4, 9)


def test_trials_of_an_earlier_job_count_and_so_does_their_best():
    log = Log().search(record(2, "finished", 0.5), stored=(record(0, "finished", 0.25), record(1, "stopped", 0.1)))
    found = summarise("small-1", "RUNNING", metadata(), str(log))
    assert (found.best, found.n_done) == (0.25, 3)


def test_a_second_attempt_in_the_same_log_counts_no_trial_twice():
    first = record(0, "finished", 0.5)
    log = Log().search(first, record(1, "paused")).search(record(1, "finished", 0.75), stored=(first,))
    assert summarise("small-1", "RUNNING", metadata(), str(log)).n_done == 2


def test_what_a_log_does_not_say_is_left_open():
    found = summarise("small-1", "PENDING", metadata(), "Running entrypoint for job small-1: python\n")
    assert (found.best, found.n_done, found.n_trials) == (None, None, 9)
    assert summarise("small-1", "RUNNING", metadata(), str(Log().search(record(0, "failed")))).best is None


def test_the_list_shows_one_job_a_line_and_nothing_that_is_not_known(capsys):
    from consilia.cli.show import show_jobs

    log = str(Log().search(record(0, "finished", 0.5)))
    name = "a-study-with-quite-a-long-name-" * 3
    show_jobs([summarise(name, "RUNNING", metadata(), log), summarise("small-2", "PENDING", metadata(), "")])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["job", "study", "state", "best", "trials"]
    assert first.split() == [name, "small", "RUNNING", "log_loss", "0.5000", "1/9"]
    assert second.split() == ["small-2", "small", "PENDING"]


def test_the_last_words_of_a_stopped_search_are_found():
    said = "Stopped with 3 of 9 trials unfinished. Everything finished is stored in /s; the same command goes on."
    assert find_farewell(f"a line\nconsilia: {said}\n") == said
    assert find_farewell("trial   0  stopped \n") == ""
