"""Which way of choosing holds where new images come from elsewhere? Rules of selection under a shift that is known.

A world is a data set, some of whose images come from elsewhere: phantoms of another scanner; radiographs of another
collection (cxr-views); chests that look unlike all others (PneumoniaMNIST's clusters, without its official test split).
Random configurations are cross-validated on the images from here. Each rule chooses among half of them, again and
again, by nothing but their out-of-fold predictions, and what it chose is scored on held-out images from here and on
those from elsewhere. `folds of look-alikes` chooses by a cross-validation whose patients are clusters of look-alikes.

Recording goes on where it stopped; --minutes ends it between two trials.

    OMP_NUM_THREADS=1 python benchmarks/shift.py --work DIR [--quick] [--data DIR] [--worlds phantoms-0 ...]
        [--trials 24] [--minutes 80] [--processes 2]
"""

from shared.recording import draw_tasks, make_context, run_all, train_trial  # isort: skip # before torch: threads

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.config.card import DataCard
from consilia.config.catalog import load
from consilia.config.recipe import BestSingle, Greedy, SoftVote
from consilia.config.records import Labels, TrialTask
from consilia.config.space import Hyperparameters, SearchSpace
from consilia.data.folds import make_folds
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.decision.calibrators import pool_folds
from consilia.decision.combination import LinearPool, combine
from consilia.ensemble.calibration import choose_calibrator
from consilia.ensemble.selection import Candidates, CandidateWeights, Truth, select
from consilia.metrics.scores import METRICS, softmax
from consilia.train.context import TrainingContext
from consilia.train.tables import read_fold_logits, read_out_of_fold
from consilia.tune.space import join_spaces
from record_trials import held_out_file, predict_held_out
from shared.figures import print_figures, print_table
from shared.worlds import World, cluster, worlds

K, SEED = 3, 0
FIGURES = ("log_loss", "accuracy", "macro_auc")
CLUSTERED = "folds of look-alikes"
SHIPPED = "greedy (ships)"
Places = dict[str, dict[str, float]]  # by the place, here or elsewhere; of each figure
Options = Sequence[Hyperparameters]  # of each trial
Rows = npt.NDArray[np.int64]  # of trials
Rule = Callable[[Candidates, Truth, Options, int], CandidateWeights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small world, few trials")
    parser.add_argument("--work", type=Path, help="keeps what is recorded")
    parser.add_argument("--data", type=Path, help="a folder with cxr-views and pneumoniamnist_28.npz")
    parser.add_argument("--worlds", nargs="+", help="default: all that there are data of")
    parser.add_argument("--trials", type=int, help="a world, the defaults of each architecture among them")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    n_trials = arguments.trials or (5 if arguments.quick else 24)
    makers = worlds(arguments.data, quick=arguments.quick)
    rows = []
    with nullcontext(arguments.work) if arguments.work else tempfile.TemporaryDirectory() as folder:
        for name in arguments.worlds or makers:
            work = Path(folder) / name
            world = makers[name](work / "source")
            by_patients, by_clusters = (
                record(world, work / kind, deadline, n_trials, arguments.processes, clustered=kind != "patients")
                for kind in ("patients", "clusters")
            )
            if by_patients and by_clusters:
                draws = 4 if arguments.quick else arguments.draws
                rows.append({"world": name, **compare(by_patients, by_clusters, draws)})
    if not rows:
        raise SystemExit("No world is recorded to its end yet: run the same command again.")
    show(rows)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What rules choose by, and what their choices are scored on; probabilities."""

    options: list[Hyperparameters]  # of each trial
    candidates: Candidates  # (n_trials, n_here, n_classes), out of fold
    truth: Truth  # of these images
    held_out: npt.NDArray[np.float64]  # (n_trials, K, n_held_out, n_classes)
    labels: Labels  # of held-out images
    elsewhere: npt.NDArray[np.bool_]  # which of them are from elsewhere


def record(
    world: World, work: Path, deadline: float, n_trials: int, processes: int, *, clustered: bool
) -> Recorded | None:
    """Cross-validate configurations on the images from here; None: some are left when the time is over."""
    store, card = open_world(world, work)
    if clustered:
        here = np.flatnonzero(store.index["split"] == "train")
        clusters = cluster(np.asarray(store.pixels[here]), store.patients[here], world.clusters)
        names = store.patients.astype(object)
        names[here] = [f"cluster {each}" for each in clusters]
        store = replace(store, index=store.index.assign(patient_id=names))
    folds = make_folds(store, k=K, seed=SEED, test="auto", test_fraction=0.2, on_leak="drop_train")
    space = load("search_spaces", "tiny", SearchSpace, base=Path.cwd())
    context = make_context(card, store, folds, space.architectures, work=work, epochs=world.epochs)
    tasks = draw_tasks(join_spaces([space], weights="none"), n_trials)
    if not all(run_all(partial(finish, context, deadline), tasks, processes=processes)):
        return None
    trials = [context.trial(task.number) for task in tasks]
    oof = [read_out_of_fold(trial, folds, store.labels, store.patients) for trial in trials]
    held_out = [[read_fold_logits(held_out_file(trial.fold(fold)))[1] for fold in range(K)] for trial in trials]
    return Recorded(
        options=[task.hyperparameters for task in tasks],
        candidates=softmax(np.stack([each.logits for each in oof])),
        truth=Truth(labels=oof[0].labels, patients=oof[0].patients, folds=oof[0].folds),
        held_out=softmax(np.array(held_out)),
        labels=store.labels[folds.test],
        elsewhere=store.index["meta_elsewhere"].to_numpy()[folds.test].astype(str) == "True",
    )


def finish(context: TrainingContext, deadline: float, task: TrialTask) -> bool:
    """Train what is left of a trial, and say whether all of it is recorded."""
    folds = [context.trial(task.number).fold(fold) for fold in range(K)]
    if all(held_out_file(fold).exists() for fold in folds):
        return True
    if train_trial(task, context, stopped=lambda: time.monotonic() > deadline).state != "finished":
        return False
    for fold in folds:
        predict_held_out(fold, context)
    return True


def open_world(world: World, work: Path) -> tuple[ImageStore, DataCard]:
    """Return the store of a world, prepared if necessary, and its card; a fifth of those from here is held out."""
    patients = np.sort(world.table.loc[~world.table["elsewhere"], "patient"].unique())
    held_out = np.random.default_rng(SEED).permutation(patients)[: len(patients) // 5]
    is_held_out = world.table["elsewhere"] | world.table["patient"].isin(held_out)
    table = world.table.assign(split=np.where(is_held_out, "test", "train"))
    work.mkdir(parents=True, exist_ok=True)
    columns = ["path", "label", "patient", "split", "elsewhere"]
    table[columns].to_csv(work / "world.csv", index=False)
    source = {"kind": "table", "table": str(work / "world.csv"), "images": str(world.images)}
    named = {column: column for column in columns[:4]}
    card = DataCard.model_validate(
        {"name": "world", "path": str(work), "size": world.size, "source": {**source, "columns": named}}
    )
    return prepare(card, root=work / "stores"), card


def compare(by_patients: Recorded, by_clusters: Recorded, draws: int) -> dict[str, Any]:
    """Return each rule's figures here and elsewhere, means over draws of half of the trials."""
    measured: list[dict[str, Places]] = []
    for seed in range(draws):
        n_trials = len(by_patients.options)
        drawn = np.random.default_rng(seed).permutation(np.arange(1, n_trials))[: n_trials // 2]
        rows = np.concatenate([[0], np.sort(drawn)])  # a search begins with the defaults
        sides = {name: score(by_patients, rows, rule, seed) for name, rule in RULES.items()}
        sides[CLUSTERED] = score(by_clusters, rows, RULES[SHIPPED], seed)
        measured.append(sides)
    places = measured[0][SHIPPED]
    return {
        "n_here": int((~by_patients.elsewhere).sum()),
        "n_elsewhere": int(by_patients.elsewhere.sum()),
        "rules": {
            rule: {
                place: {name: float(np.mean([each[rule][place][name] for each in measured])) for name in FIGURES}
                for place in places
            }
            for rule in measured[0]
        },
    }


def score(recorded: Recorded, rows: Rows, rule: Rule, seed: int) -> Places:
    """Return the figures of what a rule chooses among some trials, here and elsewhere."""
    options = [recorded.options[row] for row in rows]
    weights = np.zeros(len(recorded.options))
    weights[rows] = rule(recorded.candidates[rows], recorded.truth, options, seed)
    ensemble = LinearPool(weights=tuple(weights.tolist()))
    calibrator = choose_calibrator("auto", combine(recorded.candidates, ensemble), recorded.truth).calibrator
    probabilities = pool_folds(calibrator, combine(recorded.held_out, ensemble))
    return {
        place: {name: METRICS[name].function(probabilities[where], recorded.labels[where]) for name in FIGURES}
        for place, where in (("here", ~recorded.elsewhere), ("elsewhere", recorded.elsewhere))
    }


def greedy(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    return np.array(select(Greedy(), candidates, truth, seed=seed).weights)


def best_single(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    return np.array(select(BestSingle(), candidates, truth, seed=seed).weights)


def soft_vote(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    return np.array(select(SoftVote(), candidates, truth, seed=seed).weights)


def defaults(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    return alone(0, len(candidates))


def alone(row: int, n_trials: int) -> CandidateWeights:
    weights = np.zeros(n_trials)
    weights[row] = 1
    return weights


def half_defaults(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    return (greedy(candidates, truth, options, seed) + defaults(candidates, truth, options, seed)) / 2


def one_standard_error(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    """Of the trials that are not worse than the best one by more than a standard error, the most augmented."""
    near = within_a_standard_error(candidates, truth)
    strength = np.array([each.augmentation + each.mixup for each in options])
    return alone(int(np.where(near, strength, -np.inf).argmax()), len(candidates))


def greedy_near_and_strong(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    """Greedily among the more augmented half of the trials within a standard error of the best."""
    near = np.flatnonzero(within_a_standard_error(candidates, truth))
    strength = np.array([each.augmentation + each.mixup for each in options])[near]
    return among(near[strength >= np.median(strength)], candidates, truth, options, seed)


def greedy_augmented(candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    """Greedily among the trials of a space whose augmentation begins at .5; all where there are none."""
    rows = np.flatnonzero([each.augmentation >= 0.5 for each in options])
    return among(rows, candidates, truth, options, seed)


def among(rows: Rows, candidates: Candidates, truth: Truth, options: Options, seed: int) -> CandidateWeights:
    weights = np.zeros(len(candidates))
    weights[rows] = greedy(candidates[rows], truth, [options[row] for row in rows], seed)
    return weights


def within_a_standard_error(candidates: Candidates, truth: Truth) -> npt.NDArray[np.bool_]:
    """Say of each trial whether its log loss exceeds the best one's by less than that difference's error."""
    images = np.arange(len(truth.labels))
    losses = pd.DataFrame(-np.log(np.clip(candidates[:, images, truth.labels].T, 1e-15, None)))
    of_patients = losses.groupby(truth.patients).mean().to_numpy()
    best = of_patients.mean(axis=0).argmin()
    more = of_patients - of_patients[:, [best]]
    near: npt.NDArray[np.bool_] = more.mean(axis=0) <= more.std(axis=0, ddof=1) / np.sqrt(len(more))
    return near


RULES: dict[str, Rule] = {
    SHIPPED: greedy,
    "best single": best_single,
    "soft vote of 5": soft_vote,
    "defaults alone": defaults,
    "greedy and defaults, half each": half_defaults,
    "one standard error, most augmented": one_standard_error,
    "greedy, near the best and augmented": greedy_near_and_strong,
    "greedy, augmentation of .5 and more": greedy_augmented,
}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print each rule's differences to the shipped one, means and standard errors over worlds."""
    table = []
    summary: dict[str, Any] = {}
    for rule in rows[0]["rules"]:
        cells = []
        for place in ("here", "elsewhere"):
            for figure in FIGURES:
                own = np.array([row["rules"][rule][place][figure] for row in rows])
                less = own - np.array([row["rules"][SHIPPED][place][figure] for row in rows])
                error = float(less.std(ddof=1) / np.sqrt(len(less))) if len(less) > 1 else None
                summary.setdefault(rule, {})[f"{figure}, {place}"] = [float(own.mean()), float(less.mean()), error]
                cells.append(f"{own.mean():.3f}, {less.mean():+.3f}" + ("" if error is None else f" ({error:.3f})"))
        table.append([rule, *cells])
    header = ["rule", *(f"{figure}, {place}" for place in ("here", "elsewhere") for figure in FIGURES)]
    for row in rows:
        of_world = [
            [rule, *(f"{found[place][figure]:.3f}" for place in ("here", "elsewhere") for figure in FIGURES)]
            for rule, found in row["rules"].items()
        ]
        print_table(
            f"{row['world']}: {row['n_here']} images from here, {row['n_elsewhere']} from elsewhere", header, of_world
        )
    title = f"Means of {len(rows)} worlds, differences to the shipped rule (standard errors over worlds)"
    print_figures(title, header, table, {"worlds": list(rows), "rules": summary})


if __name__ == "__main__":
    main()
