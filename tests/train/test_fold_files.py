import numpy as np
import pandas as pd
import pytest
import torch

from consilia.errors import StudyError
from consilia.train.cross_validation import cross_validate
from consilia.train.input import network_input
from consilia.train.network_files import read_network_metadata, read_weights
from consilia.train.networks.factory import build_model
from consilia.train.tables import read_fold_logits, read_history, read_out_of_fold


@pytest.fixture
def trial(make_context, make_task):
    context = make_context(epochs=1)
    cross_validate(make_task(), context, report=[].append, stopped=lambda: False)
    return context


def read(context):
    return read_out_of_fold(context.trial(0), context.folds, context.store.labels, context.store.patients)


def test_stored_weights_and_preprocessing_alone_reproduce_the_stored_logits(trial):
    fold = trial.trial(0).fold(2)
    spec, preprocessing, state = read_weights(fold.weights)
    model = build_model(spec).eval()
    model.load_state_dict(state)
    image_ids, logits = read_fold_logits(fold.oof)
    with torch.inference_mode():
        again = model(network_input(torch.from_numpy(trial.store.pixels[image_ids]), preprocessing))
    np.testing.assert_allclose(again.numpy(), logits, atol=1e-4)
    assert read_network_metadata(fold.weights) == (spec, preprocessing)


def test_normalisation_comes_from_the_training_images_of_the_fold_alone(trial):
    for fold in range(3):
        _, preprocessing = read_network_metadata(trial.trial(0).fold(fold).weights)
        pixels = trial.store.pixels[trial.folds.training(fold)] / 255
        assert preprocessing.mean == pytest.approx((pixels.mean(),), rel=1e-6)
        assert preprocessing.std == pytest.approx((pixels.std(),), rel=1e-6)


def test_a_missing_fold_is_named(trial):
    trial.trial(0).fold(1).oof.unlink()
    with pytest.raises(StudyError, match=r"fold-1.oof\.parquet"):
        read(trial)


def _drop_a_row(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[1:]


def _repeat_a_row(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame.iloc[:1], frame.iloc[:-1]])


def _lose_a_number(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(logit_1=frame["logit_1"].where(frame.index > 0))


def _rename_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"logit_1": "logit_7"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_a_row, "images that the fold plan validates"),
        (_repeat_a_row, "images that the fold plan validates"),
        (_lose_a_number, "1 of 30 rows"),
        (_rename_a_column, "logit_7"),
    ],
)
def test_predictions_that_do_not_fit_the_fold_plan_are_refused_with_their_file(trial, damage, message):
    path = trial.trial(0).fold(0).oof
    damage(pd.read_parquet(path)).to_parquet(path, index=False)
    with pytest.raises(StudyError, match=message) as caught:
        read(trial)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_damaged_files_are_refused_by_name(trial, content):
    fold = trial.trial(0).fold(0)
    fold.weights.write_bytes(content)
    fold.history.write_bytes(content)
    with pytest.raises(StudyError, match=r"weights\.safetensors"):
        read_weights(fold.weights)
    with pytest.raises(StudyError, match=r"history\.parquet"):
        read_history(fold.history)


def test_missing_weights_are_refused_by_name(tmp_path):
    with pytest.raises(StudyError, match=r"weights\.safetensors"):
        read_network_metadata(tmp_path / "weights.safetensors")
