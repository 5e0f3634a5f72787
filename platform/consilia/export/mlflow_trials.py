"""What a trial is in MLflow: parameters, metrics of its finished folds, and a curve for each column of a history."""

import math
from collections.abc import Iterator

from mlflow.entities import Metric, Param

from consilia.config.records import TrialRecord
from consilia.config.study_folder import TrialFolder
from consilia.train.tables import read_history

_OWN_COLUMNS = ("epoch", "images")  # of a history; the others are curves


def params_of(record: TrialRecord) -> list[Param]:
    """Return the hyperparameters that the trial has."""
    return [Param(name, str(value)) for name, value in record.hyperparameters.model_dump(exclude_none=True).items()]


def metrics_of(record: TrialRecord, folder: TrialFolder, *, metric: str, timestamp: int) -> Iterator[Metric]:
    """Yield `objective`, `fold_0/log_loss` of a finished fold, and `fold_0/epochs/log_loss` with epochs as steps.

    What is undefined (NaN) is left out.

    Args:
        record: Of a trial that has ended.
        folder: Of its files.
        metric: The study's, of which the objective is.
        timestamp: Of all of them, in milliseconds since 1970.
    """
    values = {"seconds": record.seconds}
    if record.objective is not None:
        values |= {"objective": record.objective, metric: record.objective}
    for fold in record.folds:
        values |= {f"fold_{fold.fold}/{name}": value for name, value in fold.metrics.items()}
    for name, value in values.items():
        if not math.isnan(value):
            yield Metric(name, value, timestamp, 0)
    yield from _curves(folder, timestamp)


def _curves(folder: TrialFolder, timestamp: int) -> Iterator[Metric]:
    for path in sorted(folder.root.glob("fold-*/history.parquet")):
        fold = path.parent.name.replace("-", "_")
        for row in read_history(path).to_dict("records"):
            for name, value in row.items():
                if name not in _OWN_COLUMNS and not math.isnan(value):
                    yield Metric(f"{fold}/epochs/{name}", value, timestamp, int(row["epoch"]))
