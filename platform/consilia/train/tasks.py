"""What workers are given to run. The driver, which names it, needs no torch for that; the worker imports it."""

import tempfile
from typing import Any

from consilia.config.records import TrialOutcome, TrialTask
from consilia.errors import NodeFault
from consilia.train.context import TrainingContext


def prove(*, context: TrainingContext) -> None:
    """Try what every trial takes for granted: the images can be read, the device computes, results can be written.

    Raises:
        NodeFault: Not on this node; says what failed.
    """
    import torch

    from consilia.train.device import resolve_device

    try:
        what = f"the images in {context.store_folder} cannot be read"
        store = context.store
        if store.digest != context.folds.store_digest:
            raise NodeFault(f"the images in {context.store_folder} are others than the search was started with")
        store.pixels[-1].sum()
        what = f"device {context.device} does not compute"
        torch.ones(8, device=resolve_device(context.device)).sum().item()
        what = f"nothing can be written to {context.trials}"
        context.trials.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=context.trials) as file:
            file.write(b"0")
    except NodeFault:
        raise
    except Exception as error:  # whatever it is, a trial would meet it too
        raise NodeFault(f"{what}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error


def train_trial(task: TrialTask, *, context: TrainingContext, **listeners: Any) -> TrialOutcome:
    """Train a trial; arguments, outcome and errors as of `cross_validate`."""
    from consilia.train.cross_validation import cross_validate

    return cross_validate(task, context, **listeners)


def train_refit(task: TrialTask, *, context: TrainingContext, **listeners: Any) -> TrialOutcome:
    """Train a refit; arguments, outcome and errors as of `refit`."""
    from consilia.train.refit import refit

    return refit(task, context, **listeners)
