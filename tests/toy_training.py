"""A toy data set that tiny networks can learn in seconds, prepared as real ones are.

Its fixtures are those of all tests: `conftest.py` names this file as a plugin.
"""

from pathlib import Path

import numpy as np
import pytest

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.card import DataCard, NpzSource
from consilia.config.records import TrialTask
from consilia.config.space import Architecture, Hyperparameters
from consilia.config.study import TrainingPlan
from consilia.data.folds import make_folds
from consilia.data.store.prepare import prepare
from consilia.train.context import TrainingContext

SIZE = 16
N_TRAIN, N_TEST = 90, 12


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory):
    """Two classes: a bright blob in the left or in the right half, on noise."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        labels = np.arange(n) % 2
        images = rng.integers(0, 80, (n, SIZE, SIZE), dtype=np.uint8)
        for image, label, top, left in zip(images, labels, *rng.integers(1, 4, (2, n)), strict=True):
            image[2 * top : 2 * top + 5, left + 7 * label : left + 7 * label + 4] += 150
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels[:, None]
    np.savez(folder / "toy.npz", **arrays)
    card = DataCard(name="toy", path=str(folder / "toy.npz"), source=NpzSource(file="toy.npz"), size=SIZE, group="none")
    return prepare(card, root=folder / "stores")


@pytest.fixture(scope="session")
def toy_folds(toy_store):
    return make_folds(toy_store, k=3, seed=0, test="auto", test_fraction=0.2)


@pytest.fixture
def make_context(toy_store, toy_folds, tmp_path):
    """Build a context on the toy data; keywords change it."""

    def make(*, epochs: int = 3, trials: Path | None = None, **changes) -> TrainingContext:
        values = {
            "store_folder": toy_store.folder,
            "folds": toy_folds,
            "training": TrainingPlan(epochs=epochs, batch_size=16),
            "policy": AugmentationPolicy(),
            "architectures": {
                "test_resnet": Architecture(timm="test_resnet"),
                "test_efficientnet": Architecture(timm="test_efficientnet"),
            },
            "metric": "log_loss",
            "trials": trials or tmp_path / "trials",
            "seed": 7,
            "device": "cpu",
            "image_size": SIZE,
        }
        return TrainingContext(**{**values, **changes})

    return make


@pytest.fixture
def make_task():
    """Build a task for a tiny network; keywords change its hyperparameters."""

    def make(number: int = 0, **changes) -> TrialTask:
        values = {"architecture": "test_efficientnet", "lr": 3e-3, "drop_path": 0.1, "head_dropout": 0.1}
        return TrialTask(number=number, hyperparameters=Hyperparameters(**{**values, **changes}))

    return make
