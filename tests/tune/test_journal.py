"""What is read of Optuna's journal without Optuna."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from consilia.tune.journal import cut_journal, hours_to_end, whole_lines


@pytest.fixture
def journal(tmp_path) -> bytes:
    """Trial 0 is complete, 1 has failed and 2 runs; 3 was drawn after that, and 4 waits in the queue."""
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    study = optuna.create_study(study_name="own", storage=storage)
    first, second, third = (study.ask() for _ in range(3))
    for trial in (first, second, third):
        trial.suggest_float("lr", 0, 1)
    study.tell(first, 1.0)
    study.tell(second, state=optuna.trial.TrialState.FAIL)
    study.ask().suggest_float("lr", 0, 1)
    study.enqueue_trial({"lr": 0.5})
    return (tmp_path / "journal").read_bytes()


def states(content: bytes, tmp_path) -> list[str]:
    (tmp_path / "part").write_bytes(content)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "part")))
    return [trial.state.name for trial in optuna.load_study(study_name="own", storage=storage).get_trials()]


@pytest.mark.parametrize(
    ("before_end_of", "expected", "drawn"),
    [
        ({2}, ["COMPLETE", "FAIL", "RUNNING", "RUNNING", "WAITING"], {0, 1, 2, 3}),
        ({1}, ["COMPLETE", "RUNNING", "RUNNING"], {0, 1, 2}),
        ({0, 1}, ["RUNNING", "RUNNING", "RUNNING"], {0, 1, 2}),
    ],
)
def test_the_beginning_of_a_journal_is_a_state_that_the_search_was_in(
    journal, tmp_path, before_end_of, expected, drawn
):
    extent = cut_journal(journal, before_end_of=before_end_of)
    assert journal.startswith(extent.content)
    assert states(extent.content, tmp_path) == expected
    assert extent.drawn == drawn


def test_a_line_that_is_still_being_written_is_left_out(journal):
    assert whole_lines(journal + b'{"op_code":') == journal
    assert whole_lines(b"{") == b""


def test_hours_are_those_of_optuna_from_the_first_start(journal, tmp_path):
    (tmp_path / "part").write_bytes(journal)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "part")))
    trials = optuna.load_study(study_name="own", storage=storage).get_trials()
    begin = min(trial.datetime_start for trial in trials if trial.datetime_start)
    expected = {
        trial.number: (trial.datetime_complete - begin).total_seconds() / 3600
        for trial in trials
        if trial.datetime_complete
    }
    assert hours_to_end(journal) == pytest.approx(expected)
    assert set(expected) == {0, 1}
    assert hours_to_end(b"") == {}
