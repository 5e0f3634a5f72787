"""Record what methods are judged on: real trials' predictions out of fold, and their networks' on held-out images.

Random configurations of one space or more (the defaults of each architecture first) on PneumoniaMNIST, 28 px, from
scratch, every fold run to its end. The official test split is left out: it is shifted, which would hide the
differences. A fifth of the other images is held out instead; each trial is recorded by its out-of-fold logits and by
those of every fold's network on the held-out images. Started again with the same folder it goes on where it stopped;
the file is written anew at the end of each trial.

    python benchmarks/record_trials.py PNEUMONIAMNIST.npz --work DIR [--space tiny --space resnet] [--trials 60]
        [--epochs 6] [--processes 2] [--device cpu|cuda] [--minutes 80]
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.config.card import DataCard
from consilia.config.catalog import load
from consilia.config.records import OutOfFold, TrialTask
from consilia.config.space import SearchSpace
from consilia.config.study_folder import FoldFolder
from consilia.data.folds import make_folds
from consilia.data.store.image_store import ImageStore
from consilia.files import write_atomically, write_json
from consilia.train.batches import open_images
from consilia.train.context import TrainingContext
from consilia.train.device import MEMORY_FORMAT, resolve_device
from consilia.train.inference import predict_logits
from consilia.train.network_files import read_weights
from consilia.train.networks.factory import build_model
from consilia.train.tables import read_fold_logits, read_out_of_fold, write_out_of_fold
from consilia.tune.space import join_spaces
from shared.recording import EPOCHS, SEED, K, draw_tasks, make_context, run_all, train_trial
from shared.trials_file import RecordedTrials, write_trials

TRIALS = Path(__file__).parent / "recorded" / "trials_pneumonia.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="pneumoniamnist_28.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the store and the trials")
    parser.add_argument("--space", action="append", help="of search_spaces; may be given again (default: tiny)")
    parser.add_argument("--trials", type=int, default=60, help="in all; spaces take turns")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of torch; processes may share a GPU")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which it stops between two batches")
    parser.add_argument("--out", type=Path, default=TRIALS)
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    spaces = {name: load("search_spaces", name, SearchSpace, base=Path.cwd()) for name in arguments.space or ["tiny"]}
    keep_settings(arguments.work, {"spaces": list(spaces), "epochs": arguments.epochs, "device": arguments.device})
    card, store = open_store(arguments.data, arguments.work)
    folds = make_folds(store, k=K, seed=SEED, test=card.test, test_fraction=card.test_fraction)
    architectures = {name: each for space in spaces.values() for name, each in space.architectures.items()}
    context = make_context(
        card, store, folds, architectures, work=arguments.work, epochs=arguments.epochs, device=arguments.device
    )
    tasks = draw_of_each(list(spaces.values()), arguments.trials)
    by_number = {task.number: task for task in tasks}
    done: dict[int, Logged] = {}
    for number in run_all(_Record(context, deadline), tasks, processes=arguments.processes):
        if number is not None:
            done[number] = read_logged(context, by_number[number], spaces)
            write_trials(arguments.out, collect(context, [done[each] for each in sorted(done)]))
            print(f"trial {number} recorded, {len(done)} in all", flush=True)


def keep_settings(work: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder whose trials were run with other settings, where equal numbers mean other configurations."""
    path = work / "recording.json"
    if path.exists() and (found := json.loads(path.read_text())) != settings:
        raise SystemExit(f"{work} holds trials of {found}, but {settings} are asked for. Choose another --work.")
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def open_store(archive: Path, work: Path) -> tuple[DataCard, ImageStore]:
    """Return the card and the store of the archive's images outside its test split, prepared if necessary."""
    shortened = work / "without_test.npz"
    if not shortened.exists():
        with np.load(archive, allow_pickle=False) as full:
            kept = {name: full[name] for name in full.files if not name.startswith("test_")}
        write_atomically(shortened, lambda temporary: _save(temporary, kept))
    card = load("data/cards", "pneumoniamnist", DataCard, base=Path.cwd(), overrides={"path": str(shortened)})
    stores = sorted((work / "stores").glob(f"{card.name}-*"))
    if stores:
        return card, ImageStore.open(stores[0])
    from consilia.data.store.prepare import prepare  # late: it needs the readers' packages, which training does not

    return card, prepare(card, root=work / "stores")


def draw_of_each(spaces: Sequence[SearchSpace], n_trials: int) -> list[TrialTask]:
    """Return trials whose spaces take turns; each space has ranges of its own, so they are not drawn jointly."""
    n = len(spaces)
    tasks = [
        TrialTask(number=n * task.number + place, hyperparameters=task.hyperparameters)
        for place, space in enumerate(spaces)
        for task in draw_tasks(join_spaces([space], weights="none"), -(-n_trials // n))
    ]
    return sorted(tasks, key=lambda task: task.number)[:n_trials]


class _Record:
    """Runs in a process of its own; returns the trial's number if it is recorded, else None."""

    def __init__(self, context: TrainingContext, deadline: float) -> None:
        self._context = context
        self._deadline = deadline  # of the machine's monotonic clock, which its processes share

    def __call__(self, task: TrialTask) -> int | None:
        folds = [self._context.trial(task.number).fold(fold) for fold in range(K)]
        if all(held_out_file(fold).exists() for fold in folds):
            return task.number
        if self._is_over() or train_trial(task, self._context, stopped=self._is_over).state != "finished":
            return None
        for fold in folds:
            predict_held_out(fold, self._context)
        return task.number

    def _is_over(self) -> bool:
        return time.monotonic() > self._deadline


def predict_held_out(fold: FoldFolder, context: TrainingContext) -> None:
    """Write a fold's logits of the held-out images, and delete its weights, which are not needed again."""
    if not held_out_file(fold).exists():
        spec, preprocessing, state = read_weights(fold.weights)
        device = resolve_device(context.device)
        model = build_model(spec)
        model.load_state_dict(state)
        model.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload] # torch's stub lacks it
        rows = context.folds.test
        batch_size = context.training.batch_size
        images = open_images(context.store, device)
        logits = predict_logits(model, images, rows, preprocessing=preprocessing, batch_size=batch_size)
        write_out_of_fold(held_out_file(fold), rows, logits)
    fold.weights.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Logged:
    """What is recorded of one trial."""

    note: dict[str, Any]
    oof: OutOfFold
    held_out: npt.NDArray[np.float32]  # (K, n_held_out, n_classes) logits


def read_logged(context: TrainingContext, task: TrialTask, spaces: dict[str, SearchSpace]) -> Logged:
    """Read the files of a finished trial."""
    trial, folds, store = context.trial(task.number), context.folds, context.store
    parts = [read_fold_logits(held_out_file(trial.fold(fold))) for fold in range(K)]
    assert all(np.array_equal(rows, folds.test) for rows, _ in parts)
    return Logged(
        note=_note(task, spaces),
        oof=read_out_of_fold(trial, folds, store.labels, store.patients),
        held_out=np.stack([logits for _, logits in parts]),
    )


def collect(context: TrainingContext, trials: Sequence[Logged]) -> RecordedTrials:
    """Gather what is recorded, in the order of the trials."""
    folds, store = context.folds, context.store
    return RecordedTrials(
        trials=tuple(trial.note for trial in trials),
        notes=_notes(context),
        labels=trials[0].oof.labels,
        groups=folds.group[folds.pool],
        folds=trials[0].oof.folds,
        oof=np.stack([trial.oof.logits for trial in trials]),
        held_out_labels=store.labels[folds.test],
        held_out_groups=folds.group[folds.test],
        held_out=np.stack([trial.held_out for trial in trials]),
    )


def held_out_file(fold: FoldFolder) -> Path:
    return fold.root / "held_out.parquet"


def _note(task: TrialTask, spaces: dict[str, SearchSpace]) -> dict[str, Any]:
    options = task.hyperparameters
    space = next(name for name, space in spaces.items() if options.architecture in space.architectures)
    return {"number": task.number, "space": space, **options.model_dump(mode="json", exclude_none=True)}


def _notes(context: TrainingContext) -> dict[str, Any]:
    return {
        "data": context.store.manifest.card,
        "data_digest": context.store.digest,
        "folds_digest": context.folds.digest,
        "k": context.folds.k,
        "epochs": context.training.epochs,
        "image_size": context.image_size,
        "device": resolve_device(context.device).type,
    }


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    main()
