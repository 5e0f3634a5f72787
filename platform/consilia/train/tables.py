"""Tables of a finished fold: out-of-fold logits and history. Reading needs no torch, and no pandas until then."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from consilia.config.records import Labels, Logits, OutOfFold, Rows
from consilia.config.study_folder import TrialFolder
from consilia.errors import StudyError
from consilia.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from consilia.data.folds import FoldPlan

HistoryRow = Mapping[str, float]
"""One epoch: epoch, train_loss, lr, seconds, images, and every metric of the validation fold."""

_AGAIN = "Train the fold again by deleting its folder."


def write_out_of_fold(path: Path, image_ids: Rows, logits: Logits) -> None:
    """Write image_id and logit_0 ... logit_{c-1} as Parquet."""
    import pandas as pd

    columns = {f"logit_{number}": logits[:, number] for number in range(logits.shape[1])}
    frame = pd.DataFrame({"image_id": image_ids, **columns})
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))


def read_fold_logits(path: Path) -> tuple[Rows, Logits]:
    """Read one fold's image ids (n,) and logits (n, n_classes).

    Raises:
        StudyError: The file is missing, damaged, or its logits are not finite; names it.
    """
    frame = _read_parquet(path)
    names = [f"logit_{number}" for number in range(len(frame.columns) - 1)]
    if sorted(frame.columns) != sorted(["image_id", *names]):
        raise StudyError(f"{path} must have the columns image_id, logit_0, ..., but has {list(frame.columns)}.")
    logits = frame[names].to_numpy(np.float32)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise StudyError(f"{path} must hold finite logits, but {bad} of {len(frame)} rows do not. {_AGAIN}")
    return frame["image_id"].to_numpy(np.int64), logits


def read_out_of_fold(
    trial: TrialFolder, folds: "FoldPlan", labels: Labels, patients: npt.NDArray[np.str_]
) -> OutOfFold:
    """Assemble a trial's predictions for every image of the pool, each by the model that never saw it.

    Args:
        trial: Files of a finished trial.
        folds: The study's.
        labels: Class of every image of the store, (n_store,).
        patients: Patient of every image of the store, (n_store,).

    Raises:
        StudyError: A fold is missing, or holds other images than the fold plan says; names the file.
    """
    parts = [_fold_logits(trial.fold(fold).oof, folds.validation(fold)) for fold in range(folds.k)]
    ids = np.concatenate([image_ids for image_ids, _ in parts])
    order = np.argsort(ids)
    ids = ids[order]
    return OutOfFold(
        image_ids=ids,
        logits=np.concatenate([logits for _, logits in parts])[order],
        labels=labels[ids],
        patients=patients[ids],
        folds=folds.fold[ids],
    )


def write_history(path: Path, rows: Sequence[HistoryRow]) -> None:
    """Write one row an epoch as Parquet."""
    import pandas as pd

    frame = pd.DataFrame([dict(row) for row in rows]).astype({"epoch": "int64", "images": "int64"})
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))


def read_history(path: Path) -> "pd.DataFrame":
    """Read one row an epoch, in order.

    Raises:
        StudyError: The file is missing or damaged; names it.
    """
    return _read_parquet(path)


def _fold_logits(path: Path, expected: Rows) -> tuple[Rows, Logits]:
    image_ids, logits = read_fold_logits(path)
    if not np.array_equal(np.sort(image_ids), expected):
        raise StudyError(
            f"{path} must hold the {len(expected)} images that the fold plan validates there, each once, "
            f"but holds {len(image_ids)} rows of other images. It belongs to another study's folds. {_AGAIN}"
        )
    return image_ids, logits


def _read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} must be a readable Parquet file, but: {error}. {_AGAIN}") from error
