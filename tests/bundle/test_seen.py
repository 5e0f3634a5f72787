"""An ensemble is never measured on what it was trained on."""

from pathlib import Path

import numpy as np
import pytest

from consilia.bundle.array_files import read_seen, write_seen
from consilia.bundle.store_check import fingerprints, refuse_seen
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.ensemble.evaluate import evaluate
from consilia.errors import BundleError, DataError
from consilia.predict.loading import load_predictor

BEST = EnsembleRecipe(name="best", selection=BestSingle())


def test_a_bundle_knows_every_image_of_the_pool_and_no_other(study):
    predictor = load_predictor(study.build(BEST), device="cpu")
    refuse_seen(predictor.seen, study.store, study.folds.test)
    assert np.isin(fingerprints(study.store, study.folds.pool), predictor.seen).all()


def test_one_training_image_among_the_others_is_refused_by_name(study):
    predictor = load_predictor(study.build(BEST), device="cpu")
    rows = np.append(study.folds.test, study.folds.pool[3])
    file = study.store.index["file"].iloc[int(study.folds.pool[3])]
    with pytest.raises(DataError, match=f"1 of these {len(rows)} images.*{file}"):
        evaluate(predictor, study.store, rows)


def test_fingerprints_come_back_without_their_order(tmp_path: Path):
    write_seen(tmp_path / "seen.npy", np.array([9, 2, 9, 5], dtype=np.uint64))
    assert read_seen(tmp_path / "seen.npy").tolist() == [2, 5, 9]


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_a_bundle_error(tmp_path: Path, content: bytes):
    (tmp_path / "seen.npy").write_bytes(content)
    with pytest.raises(BundleError, match=r"seen\.npy"):
        read_seen(tmp_path / "seen.npy")


def test_another_kind_of_array_is_a_bundle_error(tmp_path: Path):
    np.save(tmp_path / "seen.npy", np.zeros((2, 2)))
    with pytest.raises(BundleError, match=r"must have shape \(any\) and type uint64"):
        read_seen(tmp_path / "seen.npy")
