"""What the recorders of real trials share: random configurations, run to the end in processes, without Ray."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: processes share the cores

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import optuna

from consilia.config.card import DataCard
from consilia.config.records import TrialOutcome, TrialTask
from consilia.config.space import Architecture, Hyperparameters
from consilia.config.study import TrainingPlan
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.train.context import TrainingContext
from consilia.train.cross_validation import cross_validate
from consilia.train.device import set_threads
from consilia.tune.space import JointSpace

K, EPOCHS, SEED = 5, 6, 0

Result = TypeVar("Result")


def draw_tasks(joint: JointSpace, n_trials: int) -> list[TrialTask]:
    """Return each architecture's defaults and random configurations; a larger number begins with the smaller one's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    defaults = [Hyperparameters.model_validate(joint.defaults(name)) for name in joint.start_with]
    drawn = [joint.suggest(study.ask()) for _ in range(n_trials - len(defaults))]
    configurations = (*defaults, *drawn)[:n_trials]
    return [TrialTask(number=number, hyperparameters=each) for number, each in enumerate(configurations)]


def make_context(
    card: DataCard,
    store: ImageStore,
    folds: FoldPlan,
    architectures: Mapping[str, Architecture],
    *,
    work: Path,
    epochs: int = EPOCHS,
    device: str = "cpu",
) -> TrainingContext:
    """Return what all trials share; their files go below `work`."""
    return TrainingContext(
        store_folder=store.folder,
        folds=folds,
        training=TrainingPlan(epochs=epochs),
        policy=card.augmentation,
        architectures=architectures,
        metric="log_loss",
        trials=work / "trials",
        seed=SEED,
        device=device,
        image_size=card.size,
    )


def train_trial(
    task: TrialTask, context: TrainingContext, *, stopped: Callable[[], bool] = lambda: False
) -> TrialOutcome:
    """Train all folds of a trial in this process, or those that are left, and print it if the trial does not finish."""
    set_threads(1)
    outcome = cross_validate(task, context, report=lambda report: None, stopped=stopped)
    if outcome.state != "finished":
        print(f"trial {task.number} {outcome.state}: {outcome.reason}", flush=True)
    return outcome


def run_all(run: Callable[[TrialTask], Result], tasks: Sequence[TrialTask], *, processes: int) -> Iterator[Result]:
    """Yield what `run` returns for each task, in the order in which they end; `run` is sent to the processes."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(run, tasks)
