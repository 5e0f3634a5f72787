"""One fold of one configuration, trained here and looked at, before a search repeats it a hundred times."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from consilia.config.record_files import read_fold_result
from consilia.config.records import TrialTask
from consilia.config.study import StudyPlan
from consilia.errors import PlanError, UserError
from consilia.metrics.scores import softmax
from consilia.study.folder import claim_folder, log_to
from consilia.study.opened import OpenStudy
from consilia.study.preflight import check_weights
from consilia.study.run import make_missing_folds
from consilia.study.trials import HISTORY_COLUMNS
from consilia.study.view import SILENT, StudyView
from consilia.train.batches import open_images
from consilia.train.device import resolve_device
from consilia.train.fold import open_fold
from consilia.train.job import FoldJob, make_job
from consilia.train.loop import train_fold as train_job
from consilia.train.tables import read_fold_logits, read_history


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedFold:
    """One network, and what it says of the images that it has not seen."""

    fold: int  # from 0
    metrics: Mapping[str, float]  # on the validation fold, before any calibration
    history: pd.DataFrame  # one row an epoch, as of `Study.history`
    predictions: pd.DataFrame  # one row an image of the fold: image_id, file, patient, label, predicted, probability_*


def train_fold(
    plan: StudyPlan,
    *,
    fold: int = 0,
    studies: str | Path = "studies",
    stores: str | Path | None = None,
    device: str = "auto",
    view: StudyView = SILENT,
) -> TrainedFold:
    """Train one fold of a plan of one configuration in this process.

    It is stored in the plan's study: a second call reads it, and `search` of the same plan trains only the others.

        plan = consilia.read_single_plan("study.yaml", architecture="resnet18", settings={"lr": 1e-3})
        trained = consilia.train_fold(plan)

    Args:
        plan: Of `read_single_plan`.
        fold: From 0.
        studies: Folder of all studies.
        stores: Folder of the prepared images; None: `stores`, beside the studies.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one.
        view: Told how many images are decoded, and of each epoch.

    Raises:
        UserError: There is no such fold.
        PlanError: The plan is that of a search, or a network or its weights cannot be had.
        DataError: The data cannot be used.
        StudyError: The folder belongs to another plan, or another process works in it.
        TrainingError: The loss is not finite.
    """
    if plan.search.configuration is None:
        raise PlanError(f"{plan.name} is a search; read_single_plan makes a plan of one configuration of it.")
    if not 0 <= fold < plan.folds.k:
        raise UserError(f"fold must be one of 0 ... {plan.folds.k - 1}, but is {fold}.")
    study = OpenStudy.of(plan, studies=studies, stores=stores, view=view)
    with claim_folder(plan, study.studies, work=study.at_work()), log_to(study.folder.log):
        check_weights(study)
        make_missing_folds(study)
        context = study.training_context(device)
        job = make_job(TrialTask(number=0, hyperparameters=plan.search.configuration), fold, context)
        if not job.folder.result.exists():
            images = open_images(context.store, resolve_device(device))
            train_job(job, open_fold(job), images, report=view.epoch_ended, stopped=lambda: False)
        return _read(job, study)


def _read(job: FoldJob, study: OpenStudy) -> TrainedFold:
    result, history = read_fold_result(job.folder.result), read_history(job.folder.history).assign(fold=job.fold)
    rows, logits = read_fold_logits(job.folder.oof)
    probabilities, store = softmax(logits.astype(np.float64)), study.store
    names = np.array(store.classes)
    index = store.index.iloc[rows]
    predictions = pd.DataFrame(
        {
            "image_id": rows,
            "file": index["file"].to_numpy(),
            "patient": index["patient_id"].to_numpy(),
            "label": names[store.labels[rows]],
            "predicted": names[probabilities.argmax(axis=1)],
            **{f"probability_{name}": probabilities[:, number] for number, name in enumerate(store.classes)},
        }
    )
    return TrainedFold(
        fold=job.fold,
        metrics=result.metrics,
        history=history.reindex(columns=HISTORY_COLUMNS),
        predictions=predictions,
    )
