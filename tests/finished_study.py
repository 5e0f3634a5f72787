"""A small finished study: real files of real networks with random weights, written by their own layers.

Its fixtures are those of all tests: `conftest.py` names this file as a plugin.
"""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consilia.config.card import Columns, DataCard, TableSource
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.recipe import EnsembleRecipe, SoftVote
from consilia.config.records import FoldResult, TrialRecord
from consilia.config.space import Architecture, Hyperparameters, SearchSpace
from consilia.config.study import FoldsPlan, StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan, make_folds
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.ensemble.build import build_ensemble
from consilia.predict.loading import load_predictor
from consilia.train.network_files import write_weights
from consilia.train.networks.factory import build_model
from consilia.train.tables import write_out_of_fold

SIZE = 32
CLASSES = ("clear", "nodule")
ARCHITECTURES = {
    "resnet": Architecture(timm="test_resnet"),
    "efficientnet": Architecture(timm="test_efficientnet"),
}


@dataclass(frozen=True)
class Study:
    """Everything that `build_ensemble` reads."""

    plan: StudyPlan
    folder: StudyFolder
    store: ImageStore
    folds: FoldPlan
    trials: tuple[TrialRecord, ...]

    def build(self, recipe: EnsembleRecipe, *, trials: tuple[TrialRecord, ...] | None = None) -> Path:
        """Build the ensemble of `recipe`."""
        return build_ensemble(
            self.trials if trials is None else trials,
            plan=self.plan,
            recipe=recipe,
            folder=self.folder,
            store=self.store,
            folds=self.folds,
        )


@pytest.fixture(scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory, one_thread) -> Study:
    root = tmp_path_factory.mktemp("study")
    write_images(root / "images")
    card = DataCard(
        name="tiny",
        path=str(root / "images"),
        source=TableSource(columns=Columns(patient="patient")),
        classes=CLASSES,
        size=SIZE,
    )
    store = prepare(card, root=root / "stores")
    folds = make_folds(store, k=3, seed=0, test="auto", test_fraction=0.25)
    folder = StudyFolder(root / "studies" / "tiny")
    space = SearchSpace(family="tiny", architectures=ARCHITECTURES, start_with=("resnet",), parameters={})
    plan = StudyPlan(
        name="tiny",
        data=card,
        folds=FoldsPlan(k=3),
        spaces=(space,),
        ensemble=EnsembleRecipe(name="votes", selection=SoftVote(members=2)),
    )
    # Trials 0 and 1 err independently of each other, so their average is clearly better than either.
    qualities = {0: 1.5, 1: 1.5, 2: 0.4, 3: 0.2}
    trials = tuple(write_trial(number, quality, folder, store, folds) for number, quality in qualities.items())
    return Study(plan=plan, folder=folder, store=store, folds=folds, trials=trials)


@pytest.fixture
def study(finished_study, tmp_path) -> Study:
    """A copy of the study's folder that a test may change, without the ensembles that other tests have built there."""
    shutil.copytree(finished_study.folder.root, tmp_path / "tiny", ignore=shutil.ignore_patterns("ensembles"))
    return Study(
        plan=finished_study.plan,
        folder=StudyFolder(tmp_path / "tiny"),
        store=finished_study.store,
        folds=finished_study.folds,
        trials=finished_study.trials,
    )


@pytest.fixture(scope="session")
def built_bundle(finished_study) -> Path:
    """The bundle of two trials with equal weights; not to be changed."""
    return finished_study.build(finished_study.plan.ensemble)


@pytest.fixture
def bundle(built_bundle, tmp_path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(built_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def predictor(built_bundle):
    return load_predictor(built_bundle, device="cpu")


def write_images(folder: Path) -> None:
    """Write 40 patients with two images each, and metadata.csv."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(7)
    with (folder / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "patient"])
        for number in range(80):
            patient = number // 2
            pixels = generator.integers(0, 256, (SIZE, SIZE + number % 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
            rows.writerow([f"{number:02}.png", CLASSES[patient % 2], f"p{patient}"])


def write_trial(number: int, quality: float, folder: StudyFolder, store: ImageStore, folds: FoldPlan) -> TrialRecord:
    """Write a trial whose networks are random and whose logits point `quality` towards the truth."""
    name = "resnet" if number % 2 == 0 else "efficientnet"
    spec = ModelSpec(architecture=ARCHITECTURES[name], n_classes=len(CLASSES), channels=1)
    generator = np.random.default_rng(number)
    results = []
    for fold in range(folds.k):
        torch.manual_seed(100 * number + fold)
        model = build_model(spec)
        for parameter in model.get_classifier().parameters():
            torch.nn.init.normal_(parameter, std=0.5)  # so that images differ in their probabilities
        preprocessing = Preprocessing(size=SIZE, channels=1, image_size=SIZE, mean=(0.5 + 0.01 * fold,), std=(0.3,))
        rows = folds.validation(fold)
        truth = np.eye(len(CLASSES))[store.labels[rows]]
        logits = (quality * truth + generator.normal(size=truth.shape)).astype(np.float32)
        files = folder.trial(number).fold(fold)
        write_weights(files.weights, model.state_dict(), model=spec, preprocessing=preprocessing)
        write_out_of_fold(files.oof, rows, logits)
        results.append(FoldResult(fold=fold, epochs=1, metrics={"log_loss": 1.0}, n_images=len(rows), seconds=1.0))
    return TrialRecord(
        number=number,
        state="finished",
        hyperparameters=Hyperparameters(architecture=name),
        folds=tuple(results),
        objective=1.0,
    )
