"""How much of a trial's score is chance: its error over patients, from its out-of-fold predictions."""

import numpy as np
import pandas as pd

from consilia.config.records import Labels, Probabilities, TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.metrics.bootstrap import bootstrap_standard_error, patient_bootstrap
from consilia.metrics.scores import image_log_loss, softmax
from consilia.train.tables import read_fold_logits

_NORMAL_WIDTH = 3.92  # of a 95 % interval, in standard errors
_DRAWS = 500  # enough for a stopping rule


def objective_noise(record: TrialRecord, *, folder: StudyFolder, metric: str) -> float:
    """Return the standard error over patients of a finished trial's objective, by bootstrap.

    Args:
        record: A finished trial; its out-of-fold predictions are in its folder.
        folder: Of the study, whose folds name the patients.
        metric: The study's. Of the log loss the error is that of the images' mean loss, of any other metric that of
            all out-of-fold predictions together, from its 95 % interval.

    Raises:
        StudyError: A prediction file is missing or damaged.
    """
    table = pd.read_parquet(folder.folds).set_index("image_id")
    parts = [read_fold_logits(folder.trial(record.number).fold(result.fold).oof) for result in record.folds]
    ids = np.concatenate([image_ids for image_ids, _ in parts])
    probabilities: Probabilities = softmax(np.concatenate([logits for _, logits in parts]))
    labels: Labels = table.loc[ids, "label"].to_numpy(np.int64)
    patients = table.loc[ids, "patient_id"].to_numpy(str)
    if metric == "log_loss":
        return bootstrap_standard_error(image_log_loss(probabilities, labels), patients, draws=_DRAWS)
    interval = patient_bootstrap([metric], probabilities, labels, patients, draws=_DRAWS)[metric]
    return (interval.high - interval.low) / _NORMAL_WIDTH
