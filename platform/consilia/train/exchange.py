"""When workers of one trial exchange tensors, one of them may be gone: then the group is lost."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from consilia.config.records import TrialOutcome
from consilia.errors import RunError


class GroupLost(RunError):  # noqa: N818 # a state of the group, which its processes do not survive
    """The workers of a trial no longer act together; the processes of all of them must be replaced.

    Attributes:
        own_error: What this worker failed with; None where it waited for another one in vain.
        outcome: How the trial ends, where this worker's error ends it; None where fresh workers can go on with it.
    """

    def __init__(self, message: str, *, own_error: Exception | None = None) -> None:
        super().__init__(message)
        self.own_error = own_error
        self.outcome: TrialOutcome | None = None


@contextmanager
def exchanging() -> Iterator[None]:
    """Tell a worker that is gone from an error of this worker's own.

    Raises:
        GroupLost: The backend could not reach another worker, or waited for it too long.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise GroupLost(f"another worker of this trial is gone or does not answer ({reason})") from error
