"""What a fast build costs: refits against the networks of all folds, on images that no choice was made on.

In several small studies of phantoms, each with its own patients, a few configurations of tiny networks are
cross-validated, and each recipe chooses among them and is built. All builds of all studies are scored on the same fresh
phantoms; a study's own test split is not used. Time is that of the CPU, with one thread, the shorter of two passes.

    python benchmarks/builds.py [--quick]
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import yaml

from consilia.config.recipe import BestSingle, EnsembleRecipe, Greedy, SoftVote
from consilia.config.records import TrialRecord, TrialTask
from consilia.config.space import Hyperparameters
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import make_folds
from consilia.data.phantoms import write_phantoms
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.ensemble.build import build_ensemble
from consilia.metrics.scores import METRICS
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_card, read_plan
from consilia.train.cross_validation import cross_validate
from consilia.train.refit import refit
from shared.figures import print_figures

SIZE = 32
SELECTIONS = {"best_single": BestSingle(), "soft_vote": SoftVote(members=3), "greedy": Greedy(members=3)}
SHOWN = ("log_loss", "macro_auc", "ece", "signed_gap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is trained."""

    studies: int
    patients: int  # of a study, a quarter of them locked away
    k: int
    epochs: int
    lrs: tuple[float, ...]
    fresh: int  # patients that everything is scored on


FULL = Scale(studies=4, patients=240, k=5, epochs=10, lrs=(4e-3,), fresh=600)
QUICK = Scale(studies=1, patients=40, k=2, epochs=1, lrs=(1e-3,), fresh=40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one tiny study; ends within two minutes on two cores")
    scale = QUICK if parser.parse_args().quick else FULL
    torch.set_num_threads(1)
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        fresh = prepared(root, "fresh", patients=scale.fresh, seed=1000)
        for seed in range(scale.studies):
            for build, row in measure_study(root / f"study-{seed}", fresh, scale, seed=seed).items():
                found[build].append(row)
                print(
                    f"study {seed}  {build:<18}" + "  ".join(f"{key} {value:.4f}" for key, value in row.items()),
                    flush=True,
                )
    report(found)


def measure_study(root: Path, fresh: ImageStore, scale: Scale, *, seed: int) -> dict[str, dict[str, float]]:
    """Return the figures of each build on the fresh images."""
    store = prepared(root, "own", patients=scale.patients, seed=seed)
    plan = make_plan(root, scale, seed=seed)
    folds = make_folds(store, k=scale.k, seed=seed, test="auto", test_fraction=0.2)
    folder = StudyFolder(root / "study")
    folds.save(folder.folds, store)
    trials = train_trials(OpenStudy(plan=plan, folder=folder, stores=root / "stores"), scale)
    rows = {}
    for (name, selection), build in product(SELECTIONS.items(), ("max", "fast")):
        recipe = EnsembleRecipe(name=f"{name}-{build}", build=build, selection=selection)
        bundle = build_ensemble(trials, plan=plan, recipe=recipe, folder=folder, store=store, folds=folds)
        rows[f"{name}, {build}"] = score(load_predictor(bundle, device="cpu"), fresh)
    return rows


def train_trials(study: OpenStudy, scale: Scale) -> list[TrialRecord]:
    """Cross-validate each configuration, and train it again on all images."""
    context, joint = study.training_context("cpu"), study.space
    records = []
    for number, (architecture, lr) in enumerate(product(joint.architectures, scale.lrs)):
        options = Hyperparameters.model_validate({**joint.defaults(architecture), "lr": lr})
        task = TrialTask(number=number, hyperparameters=options)
        outcome = cross_validate(task, context, report=lambda report: None, stopped=lambda: False)
        again = refit(task, context, report=lambda report: None, stopped=lambda: False)
        assert (outcome.state, again.state) == ("finished", "finished"), outcome.reason or again.reason
        objective = statistics.mean(fold.metrics["log_loss"] for fold in outcome.folds)
        records.append(
            TrialRecord(
                number=number, state="finished", hyperparameters=options, folds=outcome.folds, objective=objective
            )
        )
    return records


def score(predictor: EnsemblePredictor, fresh: ImageStore) -> dict[str, float]:
    """Return the metrics on the fresh images, the number of networks, and milliseconds an image."""
    rows = np.arange(len(fresh))
    passes = []
    for _ in range(2):
        started = time.process_time()  # other work on this machine does not count
        probabilities = predictor.predict_store(fresh, rows)
        passes.append(time.process_time() - started)
    metrics = {name: METRICS[name].function(probabilities, fresh.labels) for name in SHOWN}
    members = predictor.document.members
    return {**metrics, "networks": len(members) * predictor.document.n_folds, "ms": 1000 * min(passes) / len(rows)}


def prepared(root: Path, name: str, *, patients: int, seed: int) -> ImageStore:
    """Return a store of phantoms."""
    images = write_phantoms(root / name, patients=patients, size=SIZE, seed=seed)
    return prepare(read_card("phantoms", settings=[f"path={images}", f"size={SIZE}"]), root=root / "stores")


def make_plan(root: Path, scale: Scale, *, seed: int) -> StudyPlan:
    """Return the plan of a study of tiny networks."""
    file = root / "study.yaml"
    content = {
        "name": "builds",
        "seed": seed,
        "data": {"card": "phantoms", "path": str(root / "own"), "size": SIZE},
        "folds": {"k": scale.k},
        "spaces": ["tiny"],
        "training": {"epochs": scale.epochs, "batch_size": 16},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_plan(file)


def report(found: dict[str, list[dict[str, float]]]) -> None:
    """Print the mean over studies of each build's figures."""
    means = {
        build: {key: statistics.mean(row[key] for row in rows) for key in rows[0]} for build, rows in found.items()
    }
    print_figures(
        f"Builds on fresh phantoms, mean of {len(next(iter(found.values())))} studies",
        ("build", *SHOWN, "networks", "ms an image"),
        [
            (build, *(f"{row[key]:.4f}" for key in SHOWN), f"{row['networks']:.1f}", f"{row['ms']:.2f}")
            for build, row in means.items()
        ],
        {"means": means, "studies": {build: [row["log_loss"] for row in rows] for build, rows in found.items()}},
    )


if __name__ == "__main__":
    main()
