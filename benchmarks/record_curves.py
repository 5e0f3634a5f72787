"""Record the learning curves that racing is judged on: real trials with all their folds run to the end.

Random configurations of the space `tiny` (the defaults of each architecture first) on PneumoniaMNIST, 28 px, from
scratch. Started again with the same folder it goes on where it stopped; the curves of finished trials are collected at
the end of each trial, so it may be stopped at any time.

    python benchmarks/record_curves.py PNEUMONIAMNIST.npz --work DIR [--trials 64] [--processes 2]
"""

import argparse
from pathlib import Path

import pandas as pd

from consilia.config.card import DataCard
from consilia.config.catalog import load
from consilia.config.records import TrialTask
from consilia.config.space import SearchSpace
from consilia.config.study_folder import TrialFolder
from consilia.data.folds import make_folds
from consilia.data.store.prepare import prepare
from consilia.files import write_atomically
from consilia.train.context import TrainingContext
from consilia.train.tables import read_history
from consilia.tune.space import join_spaces
from shared.recording import SEED, K, draw_tasks, make_context, run_all, train_trial

CURVES = Path(__file__).parent / "recorded" / "curves_pneumonia.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="pneumoniamnist_28.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the store and the trials")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=CURVES)
    arguments = parser.parse_args()
    card = load("data/cards", "pneumoniamnist", DataCard, base=Path.cwd(), overrides={"path": str(arguments.data)})
    store = prepare(card, root=arguments.work / "stores")
    folds = make_folds(store, k=K, seed=SEED, test=card.test, test_fraction=card.test_fraction)
    joint = join_spaces([load("search_spaces", "tiny", SearchSpace, base=Path.cwd())], weights="none")
    context = make_context(card, store, folds, joint.architectures, work=arguments.work)
    tasks = draw_tasks(joint, arguments.trials)
    for number in run_all(_Run(context), tasks, processes=arguments.processes):
        collect(context, tasks, arguments.out)
        print(f"trial {number} done", flush=True)


def collect(context: TrainingContext, tasks: list[TrialTask], out: Path) -> None:
    """Write one row per epoch of every trial whose folds have all finished."""
    frames = [_curves(context.trial(task.number), task) for task in tasks]
    found = pd.concat([frame for frame in frames if frame is not None], ignore_index=True)
    write_atomically(out, lambda temporary: found.to_parquet(temporary, index=False))


class _Run:
    """Runs in a process of its own."""

    def __init__(self, context: TrainingContext) -> None:
        self._context = context

    def __call__(self, task: TrialTask) -> int:
        train_trial(task, self._context)
        return task.number


def _curves(folder: TrialFolder, task: TrialTask) -> pd.DataFrame | None:
    folds = [folder.fold(fold) for fold in range(K)]
    if not all(fold.result.exists() for fold in folds):
        return None
    parts = [read_history(fold.history).assign(fold=number) for number, fold in enumerate(folds)]
    curves = pd.concat(parts, ignore_index=True)[["fold", "epoch", "log_loss", "macro_auc", "seconds"]]
    curves.insert(0, "trial", task.number)
    return curves.assign(architecture=task.hyperparameters.architecture, lr=task.hyperparameters.lr)


if __name__ == "__main__":
    main()
