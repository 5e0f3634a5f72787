"""The best trials trained once more with other folds and seeds: how much of their lead was luck.

Source: docs/methods.md section 2.4.
"""

from dataclasses import replace

import numpy as np

from consilia.config.records import TrialTask
from consilia.config.study_folder import TrialFolder
from consilia.data.folds import FoldPlan, divide_again, load_folds
from consilia.study.end import settle_again
from consilia.study.opened import OpenStudy
from consilia.study.preflight import check_weights, load_weights_once
from consilia.study.slots import LazySlots
from consilia.train.context import TrainingContext
from consilia.train.order import check_workers
from consilia.tune.refitting import refit_in_slots
from consilia.tune.stored import leaderboard, read_confirmations


def confirm_best(study: OpenStudy, slots: LazySlots) -> None:
    """Train the best `search.confirm` trials once more, in the search's slots; finished ones are not repeated.

    One that fails is noted and nothing else: no ensemble depends on it, and the same call tries it again.

    Raises:
        DataError: The images cannot be divided otherwise.
        InterruptedStudyError: Ctrl-C; the same call goes on where this one stopped.
        RunError: The cluster cannot be used, or the disk is full.
    """
    plan, folder = study.plan, study.folder
    ranked = leaderboard(study.records(), metric=plan.search.metric)
    known = {each.number for each in read_confirmations(folder, ranked, plan=plan)}
    missing = [record for record in ranked[: plan.search.confirm] if record.number not in known]
    if missing:
        check_workers(plan.cluster.workers_per_trial, folds=_other_folds(study), training=plan.training)
        check_weights(study)
        load_weights_once(study)
        numbers = ", ".join(str(record.number) for record in missing)
        study.note(f"confirming trial{'s' if len(missing) > 1 else ''} {numbers} with other folds and seeds")
        tasks = [TrialTask(number=record.number, hyperparameters=record.hyperparameters) for record in missing]
        opened = slots.open(n_tasks=min(len(tasks), plan.cluster.max_slots or len(tasks)))
        controller = refit_in_slots(
            tasks,
            confirming_context(study, opened.context),
            folder,
            study.view,
            capacity=opened.capacity,
            groups=opened.groups,
            noun="confirmation",
        )
        settle_again(controller, folder, noun="confirmation")
    for each in read_confirmations(folder, ranked, plan=plan):
        _drop_weights(folder.confirmation(each.number), k=plan.folds.k)


def confirming_context(study: OpenStudy, context: TrainingContext) -> TrainingContext:
    """Return what the confirmations of a study share: its trials' context with other folds, seed and folder.

    Raises:
        DataError: The images cannot be divided otherwise.
    """
    folds = _other_folds(study)
    return replace(context, folds=folds, seed=folds.seed, trials=study.folder.confirmations)


def _other_folds(study: OpenStudy) -> FoldPlan:
    """Return the folds of all confirmations, divided when they are first asked for."""
    path = study.folder.confirming_folds
    if not path.exists():
        seed = int(np.random.SeedSequence([study.plan.seed, 0xC0F1]).generate_state(1)[0])
        divide_again(study.folds, study.store, seed=seed).save(path, study.store)
    return load_folds(path)


def _drop_weights(trial: TrialFolder, *, k: int) -> None:
    """Free the disk: no ensemble is built from a confirmation."""
    for fold in range(k):
        trial.fold(fold).weights.unlink(missing_ok=True)
