"""What workers are given to run. The driver, which names it, needs no torch for that; the worker imports it."""

from typing import Any

from consilia.config.records import TrialOutcome, TrialTask
from consilia.train.context import TrainingContext


def train_trial(task: TrialTask, *, context: TrainingContext, **listeners: Any) -> TrialOutcome:
    """Train a trial; arguments, outcome and errors as of `cross_validate`."""
    from consilia.train.cross_validation import cross_validate

    return cross_validate(task, context, **listeners)


def train_refit(task: TrialTask, *, context: TrainingContext, **listeners: Any) -> TrialOutcome:
    """Train a refit; arguments, outcome and errors as of `refit`."""
    from consilia.train.refit import refit

    return refit(task, context, **listeners)
