"""A bundle reads an image as its training images were read, or refuses it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from consilia.config.reading import FixedWindows, Reading, Window
from consilia.decision.calibrators import pool_folds
from consilia.errors import DataError, ReaderError
from consilia.predict.loading import load_predictor
from dicom_files import write_ct

SIZE = 32  # of the stored images of `study`
LUNG = FixedWindows(windows=(Window(name="lung", center=-600, width=1500),))


def ct_bundle(study, reading: Reading):
    """A bundle of networks that were trained on windowed CT, as far as it knows."""
    manifest = study.store.manifest.model_copy(update={"reading": reading, "kinds": ("dicom",)})
    store = replace(study.store, manifest=manifest)
    return replace(study, store=store).build(study.plan.ensemble)


@pytest.fixture
def ct_predictor(study):
    return load_predictor(ct_bundle(study, Reading(size=SIZE, channels=1, window=LUNG)), device="cpu")


@pytest.fixture
def hounsfield():
    return np.random.default_rng(3).integers(-1024, 1500, (SIZE, SIZE))


def said_of(predictor, pixels: np.ndarray) -> np.ndarray:
    """What the networks say of stored pixels, (h, w)."""
    return pool_folds(predictor.document.calibrator, predictor.networks.probabilities(pixels[None, :, :, None]))


def test_a_ct_file_goes_through_the_windows_of_training(ct_predictor, hounsfield, tmp_path):
    path = write_ct(tmp_path / "slice.dcm", hounsfield, WindowCenter=40, WindowWidth=400)
    expected = np.rint(np.clip((hounsfield - (-600 - 0.5)) / (1500 - 1) + 0.5, 0, 1) * 255).astype(np.uint8)
    assert np.allclose(ct_predictor.predict_proba(path), said_of(ct_predictor, expected), atol=1e-4)


@pytest.mark.parametrize("as_file", [True, False])
def test_a_raster_image_is_refused_by_an_ensemble_of_windowed_ct_unless_told_how(ct_predictor, tmp_path, as_file):
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    image = tmp_path / "slice.png" if as_file else pixels
    with pytest.raises(ReaderError, match=r"trained on DICOM files only .*lung -600/1500.*as_displayed"):
        ct_predictor.predict(image)
    told = ct_predictor.predict_proba(image, on_unknown_kind="as_displayed")
    assert np.allclose(told, said_of(ct_predictor, pixels), atol=1e-6)


def test_a_dicom_file_is_refused_by_an_ensemble_of_png_files_unless_told_how(predictor, hounsfield, tmp_path):
    path = write_ct(tmp_path / "slice.dcm", hounsfield, WindowCenter=40, WindowWidth=400)
    with pytest.raises(ReaderError, match=r"slice\.dcm: this is a DICOM file.*trained on raster images only"):
        predictor.predict(path)
    shown = np.rint(np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1) * 255).astype(np.uint8)
    told = predictor.predict_proba(path, on_unknown_kind="as_displayed")
    assert np.allclose(told, said_of(predictor, shown), atol=1e-4)


def test_telling_how_does_not_change_images_of_the_kind_that_was_trained_on(ct_predictor, hounsfield, tmp_path):
    path = write_ct(tmp_path / "slice.dcm", hounsfield, WindowCenter=40, WindowWidth=400)
    plain, told = (ct_predictor.predict_proba(path, on_unknown_kind=how) for how in ("refuse", "as_displayed"))
    assert np.array_equal(plain, told)


def test_each_frame_of_a_file_is_predicted_where_each_was_trained_on(study, tmp_path):
    reading = Reading(size=SIZE, channels=1, window=LUNG, frames="each")
    predictor = load_predictor(ct_bundle(study, reading), device="cpu")
    frames = np.random.default_rng(0).integers(-1000, 500, (3, SIZE, SIZE))
    stack = write_ct(tmp_path / "stack.dcm", frames)
    singles = [write_ct(tmp_path / f"{i}.dcm", frame) for i, frame in enumerate(frames)]
    together = predictor.predict(stack)
    assert together.names == tuple(f"{stack}[{i}]" for i in range(3))
    assert np.allclose(
        together.to_frame()["confidence"], predictor.predict(singles).to_frame()["confidence"], atol=1e-6
    )


def test_a_store_that_was_read_otherwise_is_not_evaluated(study, predictor):
    manifest = study.store.manifest
    for update, says in (
        ({"reading": manifest.reading.model_copy(update={"fit": "crop"})}, "fit must be pad"),
        ({"kinds": ("dicom",)}, "trained on raster only"),
    ):
        store = replace(study.store, manifest=manifest.model_copy(update=update))
        with pytest.raises(DataError, match=says):
            predictor.predict_store(store, np.array([0]))
