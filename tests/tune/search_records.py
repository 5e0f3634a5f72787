"""A search without Ray: fakes are plain data and callables."""

from pathlib import Path

from consilia.config.records import EpochReport, FoldResult, TrialRecord, TrialTask
from consilia.config.space import Hyperparameters

METRICS = ("log_loss", "macro_auc")


class Listener:
    """A SearchObserver that writes down what it hears."""

    def __init__(self) -> None:
        self.started: list[TrialTask] = []
        self.ended: list[TrialRecord] = []
        self.notes: list[str] = []
        self.epochs: list[EpochReport] = []

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        self.budget = n_trials

    def trial_started(self, task: TrialTask) -> None:
        self.started.append(task)

    def epoch_ended(self, report: EpochReport) -> None:
        self.epochs.append(report)

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended.append(record)

    def noted(self, text: str) -> None:
        self.notes.append(text)


class Diary(Listener):
    """Writes down for the test what happens, while it happens."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def trial_started(self, task: TrialTask) -> None:
        super().trial_started(task)
        self._write(f"trial {task.number}")

    def noted(self, text: str) -> None:
        super().noted(text)
        self._write(text)

    def _write(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line + "\n")


def task(number: int = 0, **values: object) -> TrialTask:
    configuration = {"architecture": "test_resnet", **values}
    return TrialTask(number=number, hyperparameters=Hyperparameters.model_validate(configuration))


def epoch(number: int, fold: int, at: int, score: float, *, ends_fold: bool = False) -> EpochReport:
    result = None
    if ends_fold:
        metrics = dict.fromkeys(METRICS, score)
        result = FoldResult(fold=fold, epochs=at, metrics=metrics, n_images=10, seconds=1.0)
    return EpochReport(
        number=number,
        fold=fold,
        epoch=at,
        score=score,
        train_loss=1.0,
        seconds=0.5,
        images=20,
        fold_result=result,
    )
