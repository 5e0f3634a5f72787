import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import consilia
from consilia.config.records import Prediction
from consilia.decision.calibrators import Identity, pool_folds
from consilia.errors import DataError, ReaderError, UserError
from consilia.metrics.patients import pool_images
from consilia.metrics.scores import softmax
from consilia.predict.images import single_images
from consilia.predict.loading import load_predictor
from consilia.predict.predictions import Predictions
from consilia.train.batches import open_images
from consilia.train.inference import predict_logits
from consilia.train.network_files import read_weights
from consilia.train.networks.factory import build_model


@pytest.fixture
def images():
    """Eleven grey images of one size."""
    return np.random.default_rng(1).integers(0, 256, (11, 40, 36), dtype=np.uint8)


def shapes(images, channels=1):
    return [np.shape(image) for _, image in single_images(images, channels=channels)]


# --- what is predicted


def test_a_prediction_is_the_pool_of_what_each_fold_network_computes_in_training(finished_study, predictor):
    rows = finished_study.folds.test
    device = torch.device("cpu")
    folds = []
    for fold in range(3):
        members = []
        for number in (0, 1):
            spec, preprocessing, state = read_weights(finished_study.folder.trial(number).fold(fold).weights)
            model = build_model(spec)
            model.load_state_dict(state)
            images = open_images(finished_study.store, device)
            logits = predict_logits(model, images, rows, preprocessing=preprocessing, batch_size=8)
            members.append(softmax(logits))
        folds.append(np.mean(members, axis=0))
    expected = pool_folds(predictor.document.calibrator, np.stack(folds))
    np.testing.assert_allclose(predictor.predict_store(finished_study.store, rows), expected, atol=1e-6)
    assert np.ptp(expected[:, 0]) > 0.01  # the images are told apart


def test_files_arrays_and_the_store_are_predicted_alike(finished_study, predictor):
    rows = finished_study.folds.test
    files = [f"{finished_study.plan.data.path}/{file}" for file in finished_study.store.index["file"].iloc[rows]]
    expected = predictor.predict_store(finished_study.store, rows)
    np.testing.assert_allclose(predictor.predict_proba(files), expected, atol=1e-6)
    opened = [Image.open(file) for file in files]
    np.testing.assert_allclose(predictor.predict_proba(opened), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.predict_proba([np.asarray(i) for i in opened]), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.predict_proba(finished_study.store.pixels[rows]), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_is_irrelevant(predictor, images, batch_size):
    np.testing.assert_allclose(
        predictor.predict_proba(images, batch_size=batch_size), predictor.predict_proba(images), atol=1e-6
    )


def test_the_order_of_images_is_irrelevant(predictor, images):
    order = np.random.default_rng(0).permutation(len(images))
    expected = predictor.predict_proba(images)[order]
    np.testing.assert_allclose(predictor.predict_proba(images[order], batch_size=4), expected, atol=1e-6)


def test_a_prediction_names_the_most_probable_class(predictor, images):
    probabilities = predictor.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    for prediction, row in zip(predictor.predict(images), probabilities, strict=True):
        assert prediction.label == predictor.classes[row.argmax()]
        assert prediction.confidence == row.max()
        assert list(prediction.probabilities.values()) == row.tolist()


def test_predictions_are_a_sequence_and_a_frame(predictor, images, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(images[0]).save(path)
    predictions = predictor.predict([path, images[1]])
    assert isinstance(predictions[0], Prediction)
    assert isinstance(predictions[:1], Predictions)
    frame = predictions.to_frame()
    said = ["label", "confidence", "unusual", "unusual_p_value", "prediction_set", "review"]
    assert frame.columns.tolist() == ["image", *said, "probability_clear", "probability_nodule"]
    assert frame["image"].tolist() == [str(path), "image 1"]
    assert frame["confidence"].tolist() == [prediction.confidence for prediction in predictions]
    assert frame.iloc[:1].equals(predictions[:1].to_frame())


def test_neither_a_frame_nor_probabilities_make_a_prediction_of_an_image(predictor, images, monkeypatch):
    def refuse(**_):
        raise AssertionError("a Prediction was made")

    expected = predictor.predict(images)[2]
    monkeypatch.setattr("consilia.decision.review.Prediction", refuse)
    predictions = predictor.predict(images, batch_size=4)
    frame, probabilities = predictions.to_frame(), predictor.predict_proba(images, batch_size=4)
    assert frame["label"][2] == expected.label
    assert frame["review"][2] == "; ".join(expected.review)
    np.testing.assert_array_equal(frame[["probability_clear", "probability_nodule"]].to_numpy(), probabilities)
    with pytest.raises(AssertionError, match="a Prediction was made"):
        predictions[2]


@pytest.mark.parametrize("batch_size", [1, 3, 11])
def test_predictions_in_batches_are_those_of_each_image_alone(predictor, images, batch_size):
    together = predictor.predict(images, batch_size=batch_size)
    alone = [predictor.predict(image)[0] for image in images]
    assert list(together) == list(predictor.iterate(images, batch_size=batch_size))
    for found, expected in zip(together, alone, strict=True):
        assert list(found.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
        assert (found.label, found.prediction_set) == (expected.label, expected.prediction_set)
        assert found.unusual.broken_rules == expected.unusual.broken_rules


def test_no_image_gives_no_prediction(predictor):
    assert len(predictor.predict([])) == 0
    assert predictor.predict([]).to_frame().empty
    one = predictor.predict(np.zeros((9, 9), np.uint8)).to_frame()
    assert predictor.predict([]).to_frame().columns.tolist() == one.columns[:7].tolist()
    assert predictor.predict_proba([]).shape == (0, 2)


# --- what is taken


def test_shapes_are_read_as_documented():
    zeros = np.zeros
    assert shapes(zeros((40, 36))) == [(40, 36)]
    assert shapes(zeros((40, 36, 1))) == [(40, 36, 1)]
    assert shapes(zeros((40, 36, 3))) == [(40, 36, 3)]
    assert shapes(zeros((5, 40, 36))) == [(40, 36)] * 5
    assert shapes(zeros((1, 40, 36))) == [(40, 36)]
    assert shapes(zeros((3, 40, 36))) == [(40, 36)] * 3
    assert shapes(zeros((5, 40, 36, 3))) == [(40, 36, 3)] * 5
    assert shapes(zeros((5, 40, 36, 1))) == [(40, 36, 1)] * 5
    assert shapes(zeros((0, 40, 36))) == []
    assert shapes([zeros((40, 36)), zeros((8, 9, 3))]) == [(40, 36), (8, 9, 3)]


@pytest.mark.parametrize("shape", [(5, 4, 3), (3, 5, 1), (5, 40, 2), (40, 5, 3), (7, 7, 7)])
def test_an_ambiguous_shape_is_refused_with_ways_out(shape):
    with pytest.raises(ReaderError, match=r"array\[None\] for one image"):
        shapes(np.zeros(shape))


def test_three_planes_are_refused_where_they_may_be_colours():
    with pytest.raises(ReaderError, match="channels first"):
        shapes(np.zeros((3, 40, 36)), channels=3)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 40, 36), (1, 2, 40, 36, 3)])
def test_a_shape_that_no_image_has_is_refused(shape):
    with pytest.raises(ReaderError, match="must have the shape"):
        shapes(np.zeros(shape))


@pytest.mark.parametrize("value", [None, 3, b"bytes", object()])
def test_a_type_that_no_image_has_is_refused(predictor, value):
    with pytest.raises(ReaderError, match=f"must be a path.* but got a {type(value).__name__}"):
        predictor.predict(value)
    with pytest.raises(ReaderError, match=f"image 1: .* but got a {type(value).__name__}"):
        predictor.predict([np.zeros((9, 9), np.uint8), value])


@pytest.mark.parametrize(
    "image", [np.zeros((5, 40, 36), np.uint8), np.zeros((40, 36, 4), np.uint8), np.zeros((40, 36), complex)]
)
def test_an_element_that_is_no_single_image_is_refused_by_name(predictor, image):
    with pytest.raises(ReaderError, match="image 0"):
        predictor.predict([image])


# --- broken images, and streaming


def test_a_broken_image_gets_its_error_and_the_others_are_predicted(predictor, images, tmp_path):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(b"no image")
    mixed = [images[0], broken, images[1], missing, images[2]]
    for batch_size in (1, 2, 64):
        results = list(predictor.iterate(mixed, batch_size=batch_size))
        assert [isinstance(result, ReaderError) for result in results] == [False, True, False, True, False]
        assert "broken.png" in str(results[1])
        assert "missing.png" in str(results[3])
        good = [result.confidence for result in results if isinstance(result, Prediction)]
        assert good == pytest.approx([p.confidence for p in predictor.predict(images[:3])], abs=1e-6)


def test_predict_raises_the_first_error(predictor, images, tmp_path):
    with pytest.raises(ReaderError, match=r"missing\.png"):
        predictor.predict([images[0], tmp_path / "missing.png"])


def test_images_are_taken_a_batch_at_a_time(predictor, images):
    taken = 0

    def source():
        nonlocal taken
        for number in range(20):
            taken += 1
            yield images[number % len(images)]

    for done, _ in enumerate(predictor.iterate(source(), batch_size=4), start=1):
        assert done <= taken <= done + 3
    assert taken == 20


def test_images_are_let_go_once_predicted(predictor):
    class Watched(np.ndarray):
        pass

    alive = []

    def source():
        for number in range(24):
            image = np.full((40, 36), number, np.uint8).view(Watched)
            alive.append(weakref.ref(image))
            yield image

    for _ in predictor.iterate(source(), batch_size=4):
        assert sum(reference() is not None for reference in alive) <= 9  # two batches, and one on its way


def test_a_batch_size_below_one_is_refused(predictor, images):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predictor.predict(images, batch_size=0)


# --- stores, devices, loading


def test_rows_of_a_store_in_batches_equal_all_at_once(finished_study, predictor):
    rows = finished_study.folds.pool
    whole = predictor.fold_probabilities(finished_study.store, rows, batch_size=1000)
    pieces = predictor.fold_probabilities(finished_study.store, rows, batch_size=7)
    assert whole.shape == (3, len(rows), 2)
    np.testing.assert_allclose(pieces, whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(axis=2), 1)
    assert not np.allclose(pool_folds(Identity(), whole), whole[0])


def test_a_store_of_other_classes_is_refused(finished_study, predictor):
    from dataclasses import replace

    manifest = finished_study.store.manifest.model_copy(update={"classes": ("nodule", "clear")})
    store = replace(finished_study.store, manifest=manifest)
    with pytest.raises(DataError, match=r"classes must be \('clear', 'nodule'\)"):
        predictor.predict_store(store, np.array([0]))


def test_no_rows_are_refused(finished_study, predictor):
    with pytest.raises(DataError, match="at least one image"):
        predictor.predict_store(finished_study.store, np.array([], np.int64))


def test_patients_are_judged_by_all_their_images_in_the_order_they_came(predictor, images):
    patients = ["z", "a", "z", "a", "z"]
    found = predictor.predict_patients(images[:5], patients)
    singles = predictor.predict(images[:5])
    names, pooled = pool_images(predictor.predict_proba(images[:5]), np.array(patients))
    assert found.names == ("z", "a")
    for name, prediction in zip(found.names, found, strict=True):
        row = pooled[names.tolist().index(name)]
        np.testing.assert_allclose(list(prediction.probabilities.values()), row)
        assert prediction.label == predictor.classes[row.argmax()]
        own = [each for each, patient in zip(singles, patients, strict=True) if patient == name]
        assert len(prediction.review) == sum(len(each.review) for each in own)
    with pytest.raises(UserError, match="one for each of the 5 images, but names 2"):
        predictor.predict_patients(images[:5], ["z", "a"])


def test_a_predictor_for_a_rarer_disease_is_less_ready_to_see_it(predictor, images):
    rare = predictor.for_prevalence({"nodule": 0.01})
    before, after = predictor.predict_proba(images), rare.predict_proba(images)
    odds = after[:, 1] / after[:, 0] / (before[:, 1] / before[:, 0])
    trained = predictor.document.prevalence
    np.testing.assert_allclose(odds, 0.01 / 0.99 * trained[0] / trained[1])
    np.testing.assert_array_equal(predictor.predict_proba(images), before)  # the one it came from is unchanged
    assert rare.predict(images[0])[0].probabilities["nodule"] == pytest.approx(after[0, 1])


@pytest.mark.parametrize("device", ["gpux", "cuda:97"])
def test_a_device_that_is_not_there_is_refused(built_bundle, device):
    with pytest.raises(UserError, match=f"device must be one .* got '{device}'"):
        load_predictor(built_bundle, device=device)


def test_loading_leaves_the_random_state_alone(built_bundle):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_predictor(built_bundle, device="cpu")
    assert torch.equal(torch.rand(2), expected)


def test_the_public_load_gives_a_predictor(built_bundle, images):
    assert consilia.load(built_bundle, device="cpu").predict(images[0])[0].label in ("clear", "nodule")


def test_loading_and_predicting_import_neither_ray_nor_optuna(built_bundle):
    program = f"""
        import sys
        import numpy
        import consilia
        assert "torch" not in sys.modules
        predictor = consilia.load({str(built_bundle)!r}, device="cpu")
        predictor.predict(numpy.zeros((40, 36), numpy.uint8))
        unwanted = {{"ray", "optuna"}} & sys.modules.keys()
        assert not unwanted, unwanted
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# --- decoding ahead


@pytest.fixture
def files(finished_study):
    return sorted(Path(finished_study.plan.data.path).glob("*.png"))[:24]


@pytest.mark.parametrize(("batch_size", "ahead"), [(1, 0), (4, 4)])
def test_files_are_taken_at_most_a_batch_ahead(predictor, files, batch_size, ahead):
    taken = 0

    def source():
        nonlocal taken
        for file in files:
            taken += 1
            yield file

    for done, _ in enumerate(predictor.iterate(source(), batch_size=batch_size), start=1):
        assert taken <= done + batch_size - 1 + ahead
    assert taken == len(files)


def test_leaving_a_stream_of_files_early_leaves_no_thread(predictor, files):
    stream = predictor.iterate(files, batch_size=4)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("consilia-decode")]


def test_an_error_of_the_iterable_comes_after_the_images_before_it(predictor, files):
    def source():
        yield from files[:5]
        raise RuntimeError("the list of files ended early")

    stream = predictor.iterate(source(), batch_size=4)
    assert [isinstance(next(stream), Prediction) for _ in range(5)] == [True] * 5
    with pytest.raises(RuntimeError, match="ended early"):
        next(stream)
