"""How a training ends on its worker: finished, stopped, or with an error of its configuration."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from consilia.config.records import FoldResult, TrialOutcome, TrialState, TrialTask
from consilia.train.context import TrainingContext
from consilia.train.distributed import Group
from consilia.train.faults import GroupLost, TrainingError, is_disk_full, is_out_of_memory


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A trial, or its refit, while it is trained."""

    task: TrialTask
    context: TrainingContext
    group: Group
    results: list[FoldResult] = field(default_factory=list)
    earlier_seconds: float = 0.0  # of what was finished before
    started: float = field(default_factory=time.perf_counter)

    def run(self, train: Callable[[], TrialOutcome], *, drop_checkpoints: Callable[[], None]) -> TrialOutcome:
        """Train, and turn an error that ends the trial into its outcome.

        Args:
            train: Trains to the end, or until it is stopped.
            drop_checkpoints: Frees the disk after a failure: a failed trial is never resumed.

        Raises:
            ConsiliaError: The configuration cannot be trained at all; all workers raise it.
            GroupLost: One of several workers failed alone; where that ends the trial, it holds the outcome.
        """
        try:
            return train()
        except GroupLost as lost:
            if lost.own_error is not None:
                lost.outcome = self._end_by(lost.own_error)
            raise
        except Exception as error:
            if not (isinstance(error, TrainingError) or is_disk_full(error) or is_out_of_memory(error)):
                raise
            outcome = self._end_by(error)
        if outcome.state == "failed":
            self.group.from_leader(drop_checkpoints)
        return outcome

    def end(self, state: TrialState, reason: str = "", *, fault: Literal["", "memory", "disk"] = "") -> TrialOutcome:
        """Return the outcome."""
        return TrialOutcome(
            number=self.task.number,
            state=state,
            reason=reason,
            folds=tuple(self.results),
            seconds=self.earlier_seconds + time.perf_counter() - self.started,
            fault=fault,
        )

    def _end_by(self, error: Exception) -> TrialOutcome:
        if is_disk_full(error):
            return self.end("paused", str(error), fault="disk")
        if is_out_of_memory(error):
            return self.end("failed", self._memory_reason(), fault="memory")
        kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
        return self.end("failed", f"{kind}{error}")

    def _memory_reason(self) -> str:
        context, options, n = self.context, self.task.hyperparameters, self.group.size
        workers = f" on {n} workers" if n > 1 else ""
        return (
            f"out of memory on {context.device} with batches of {context.training.batch_size} images of "
            f"{context.image_size_of(options)} px ({options.architecture}){workers}; "
            f"lower training.batch_size or training.image_size"
        )
