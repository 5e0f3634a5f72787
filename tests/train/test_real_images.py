"""A tiny network on real chest X-rays; needs the folder that CONSILIA_REAL_DATA names."""

import os
from pathlib import Path

import pytest

from consilia.config.card import DataCard, NpzSource
from consilia.data.folds import make_folds
from consilia.data.store.prepare import prepare
from consilia.train.cross_validation import cross_validate

FILE = "pneumoniamnist_28.npz"
DATA = os.environ.get("CONSILIA_REAL_DATA")


@pytest.mark.skipif(DATA is None, reason="CONSILIA_REAL_DATA names no folder")
@pytest.mark.slow("needs real images; test_cross_validation trains on drawn ones")
def test_two_epochs_of_a_tiny_network_tell_pneumonia_from_normal(make_context, make_task, tmp_path):
    path = str(Path(str(DATA)) / FILE)
    card = DataCard(name="pneumonia", path=path, source=NpzSource(file=FILE), size=28, group="none")
    store = prepare(card, root=tmp_path)
    folds = make_folds(store, k=3, seed=0, test="auto", test_fraction=0.2)
    context = make_context(epochs=2, store_folder=store.folder, folds=folds, image_size=28)
    heard = []

    def first_fold_done() -> bool:
        return bool(heard) and heard[-1].fold_result is not None

    outcome = cross_validate(
        make_task(architecture="test_resnet", lr=5e-3), context, report=heard.append, stopped=first_fold_done
    )
    assert outcome.state == "stopped"
    assert outcome.folds[0].metrics["macro_auc"] > 0.97
