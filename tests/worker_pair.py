"""Two processes that stay, joined by gloo on loopback, and what they are asked to do together."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.errors import RunError
from consilia.train.batch_norm import share_batch_norms
from consilia.train.context import TrainingContext
from consilia.train.cross_validation import cross_validate
from consilia.train.distributed import TorchGroup
from consilia.train.faults import GroupLost

N_WORKERS = 2
_PATIENCE = 150.0  # seconds that a test waits for an answer, the start of the processes included; a hang ends there


class WorkerPair:
    """Calls one function in both processes, the group as its first argument, and returns both answers."""

    def __init__(self, folder: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(N_WORKERS):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(rank, folder / "rendezvous", theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def call(self, function: Callable, *arguments, each: list[tuple] | None = None, only: int | None = None):
        """Return what both workers returned or raised, or one of them.

        Args:
            function: Of a module that the processes can import.
            arguments: After the group, the same for both.
            each: Further arguments of each worker.
            only: Wait for this worker's answer alone.
        """
        for rank, pipe in enumerate(self._pipes):
            pipe.send((function, (*arguments, *(each[rank] if each else ()))))
        return [self.answer(rank) for rank in range(N_WORKERS)] if only is None else self.answer(only)

    @property
    def is_alive(self) -> bool:
        """Say whether both processes live."""
        return all(process.is_alive() for process in self._processes)

    def end(self, rank: int) -> None:
        """End a process."""
        self._processes[rank].kill()
        self._processes[rank].join()

    def close(self) -> None:
        """End both processes."""
        for rank, pipe in enumerate(self._pipes):
            self.end(rank)
            pipe.close()

    def answer(self, rank: int):
        """Wait for a worker's answer; "gone" if it died."""
        pipe = self._pipes[rank]
        if not pipe.poll(_PATIENCE):
            raise AssertionError(f"worker {rank} gave no answer within {_PATIENCE:.0f} s")
        try:
            return pipe.recv()
        except EOFError:
            return "gone"


def _serve(rank: int, rendezvous: Path, pipe) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    patience = timedelta(seconds=_PATIENCE / 2)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=N_WORKERS, timeout=patience
    )
    group = TorchGroup(timeout_seconds=_PATIENCE / 2)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(group, *arguments)
        except Exception as error:
            answer = error
        pipe.send(answer)


@dataclass(frozen=True)
class Disturbance:
    """What one worker meets: after so many polls a stop or an error; after so many reports an error."""

    polls: int | None = None
    error: Callable[[], Exception] | None = None  # in place of a stop
    reports: int | None = None


@dataclass
class Run:
    """What came of a trial in one worker."""

    outcome: TrialOutcome | None = None
    heard: list[EpochReport] = field(default_factory=list)
    error: Exception | None = None
    lost_outcome: TrialOutcome | None = None  # of a GroupLost

    @property
    def epochs(self) -> list[tuple[int, int]]:
        return [(report.fold, report.epoch) for report in self.heard]


def train(
    group: TorchGroup,
    task: TrialTask,
    context: TrainingContext,
    folder: Path,
    disturbance: Disturbance = Disturbance(),
    how: Callable[..., TrialOutcome] = cross_validate,
) -> Run:
    """Train a trial, or its refit, whose files go to a folder of this worker alone, so that it shows who writes."""
    run, n_polls = Run(), 0

    def stopped() -> bool:
        nonlocal n_polls
        n_polls += 1
        if disturbance.polls is None or n_polls <= disturbance.polls:
            return False
        if disturbance.error is not None:
            raise disturbance.error()
        return True

    def report(said: EpochReport) -> None:
        run.heard.append(said)
        if len(run.heard) == disturbance.reports:
            raise disturbance.error()

    try:
        run.outcome = how(task, replace(context, trials=folder), report=report, stopped=stopped, group=group)
    except GroupLost as error:
        run.error, run.lost_outcome = error, error.outcome
    except Exception as error:
        run.error = error
    return run


def take_part(group: TorchGroup, errors: tuple[Exception | None, ...]) -> tuple:
    """Make the rank, or fail with this worker's error; say what came of it and of a sum after it."""

    def make() -> int:
        if (error := errors[group.rank]) is not None:
            raise error
        return group.rank

    answers = []
    for way in (group.agree, group.from_leader):
        try:
            answers.append(way(make))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    return (*answers, group.sum(torch.tensor(1.0)).item())


def add_up(group: TorchGroup) -> dict:
    """Do once each what workers exchange."""
    layer = nn.Linear(1, 1, bias=False)
    layer(torch.tensor([[group.rank + 1.0]])).backward()
    own = torch.tensor([group.rank + 1.0])
    return {
        "any": [group.any(False), group.any(group.rank == 1), group.any(True)],
        "sum": (group.sum(own).item(), own.item()),
        "gather": group.gather(torch.full((group.rank + 1, 2), group.rank).numpy()).tolist(),
        "gradient": (group.sum_gradients(layer), layer.weight.grad.item())[1],
        "weight": (group.prepare(layer), layer.weight.item())[1],
    }


def normalise(group: TorchGroup, norm: nn.Module, images: torch.Tensor, slopes: torch.Tensor, cut: int) -> tuple:
    """Take a share of a batch through the model: outputs, gradients and running statistics."""
    share_batch_norms(norm)
    own = slice(0, cut) if group.rank == 0 else slice(cut, None)
    part = images[own].clone().requires_grad_()
    output = norm(part)
    (output * slopes[own]).sum().backward()
    group.sum_gradients(norm)
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    return output.detach(), part.grad, gradients, norm.state_dict()


class UnpicklableError(RunError):
    """Its arguments are not its text, so that it cannot be built again from it."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(f"{name} {code}")
