"""A bundle of random networks, built as a study builds its own: how fast it predicts does not depend on training.

The study's images are drawn, and so are its out-of-fold predictions, which err independently of each other: that is
what makes an ensemble earn its place.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from consilia.bundle.reading import read_bundle
from consilia.config.card import DataCard, FolderSource
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
from consilia.train.network_files import write_weights
from consilia.train.networks.factory import build_model
from consilia.train.tables import write_out_of_fold

N_STUDY_IMAGES = 120
CLASSES = ("a", "b")


def draw_images(folder: Path, n_images: int, side: int) -> list[Path]:
    """Write PNG files of two classes, smooth with the noise of a detector, as radiographs are."""
    paths = []
    for number in range(n_images):
        path = folder / CLASSES[number % len(CLASSES)] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(number)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 10), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        noisy = (smooth + generator.normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path)
        paths.append(path)
    return paths


def build_random_bundle(root: Path, architecture: str, *, side: int, n_members: int, n_folds: int) -> Path:
    """Build a bundle below `root` and return its folder.

    Args:
        root: An empty folder.
        architecture: timm's name of all members.
        side: Of the stored images and of what the networks see, pixels.
        n_members: Trials.
        n_folds: Networks of each.

    Raises:
        SystemExit: The selection kept fewer members.
    """
    draw_images(root / "study_images", N_STUDY_IMAGES, side)
    card = DataCard(name="drawn", path=str(root / "study_images"), source=FolderSource(), group="none", size=side)
    store = prepare(card, root=root / "stores")
    folds = make_folds(store, k=n_folds, seed=0, test="none", test_fraction=0.2)
    folder = StudyFolder(root / "studies" / "random")
    recipe = EnsembleRecipe(name="votes", selection=SoftVote(members=n_members))
    choice = Architecture(timm=architecture)
    plan = StudyPlan(
        name="random",
        data=card,
        folds=FoldsPlan(k=n_folds),
        spaces=(SearchSpace(family="random", architectures={"it": choice}, start_with=("it",), parameters={}),),
        ensemble=recipe,
    )
    spec = ModelSpec(architecture=choice, n_classes=len(CLASSES), channels=1)
    trials = [_write_trial(number, spec, folder, store, folds) for number in range(n_members)]
    bundle = build_ensemble(trials, plan=plan, recipe=recipe, folder=folder, store=store, folds=folds)
    _check_members(bundle, n_members)
    return bundle


def _write_trial(number: int, spec: ModelSpec, folder: StudyFolder, store: ImageStore, folds: FoldPlan) -> TrialRecord:
    generator = np.random.default_rng(number)
    results = []
    for fold in range(folds.k):
        torch.manual_seed(100 * number + fold)
        # A fold's images have a mean of their own, so that no two networks of a member are shown the same numbers.
        preprocessing = Preprocessing(
            size=store.manifest.reading.size,
            channels=spec.channels,
            image_size=store.manifest.reading.size,
            mean=(0.5 + 0.001 * fold,),
            std=(0.25,),
        )
        rows = folds.validation(fold)
        truth = np.eye(spec.n_classes)[store.labels[rows]]
        logits = (1.5 * truth + generator.normal(size=truth.shape)).astype(np.float32)
        files = folder.trial(number).fold(fold)
        write_weights(files.weights, build_model(spec).state_dict(), model=spec, preprocessing=preprocessing)
        write_out_of_fold(files.oof, rows, logits)
        results.append(FoldResult(fold=fold, epochs=1, metrics={"log_loss": 1.0}, n_images=len(rows), seconds=1.0))
    return TrialRecord(
        number=number,
        state="finished",
        hyperparameters=Hyperparameters(architecture="it"),
        folds=tuple(results),
        objective=1.0,
    )


def _check_members(bundle: Path, n_members: int) -> None:
    n_found = len(read_bundle(bundle).members)
    if n_found != n_members:
        raise SystemExit(f"The bundle must have {n_members} members, but the selection kept {n_found}.")
