"""What is read is what was written, or an error that names the file."""

import numpy as np
import pytest

from consilia.bundle.array_files import OodReference, read_ood, write_ood
from consilia.decision.ood.distance import find_nearest
from consilia.decision.ood.inputs import measure_inputs
from consilia.decision.ood.picture import N_FEATURES
from consilia.ensemble.ood_reference import fit_inputs, fit_pictures
from consilia.errors import BundleError

NAMES = ("mean", "scale", "images", "usual", "distances", "histogram", "layout", "limits")


def features(n, seed):
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)
    inputs = fit_inputs(pixels, aspect=np.linspace(0.8, 1.2, 50))
    return OodReference(pictures=fit_pictures(features(200, 0), np.arange(200)), inputs=inputs)


@pytest.fixture
def file(reference, tmp_path):
    path = tmp_path / "unusual.npz"
    write_ood(path, reference)
    return path


def arrays_of(path):
    with np.load(path) as stored:
        return {name: stored[name] for name in NAMES}


def rewrite(path, arrays):
    """Write arrays in place of those of the file; None leaves one out."""
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_a_stored_reference_says_exactly_what_the_fitted_one_says(reference, file):
    stored = read_ood(file)
    new = features(20, 2)
    for mine, theirs in zip(find_nearest(new, stored.pictures), find_nearest(new, reference.pictures), strict=True):
        assert (mine == theirs).all()
    assert (stored.pictures.distances == reference.pictures.distances).all()
    pixels = np.random.default_rng(3).integers(0, 256, (4, 16, 16, 1), dtype=np.uint8)
    measures = [measure_inputs(pixels, each.inputs, aspect=np.ones(4)) for each in (stored, reference)]
    assert (measures[0] == measures[1]).all()
    assert (stored.inputs.limits == reference.inputs.limits).all()


def test_equal_references_are_equal_files(reference, file, tmp_path):
    write_ood(tmp_path / "again.npz", reference)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_archive_of_arrays_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"unusual\.npz"):
        read_ood(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"gone\.npz"):
        read_ood(tmp_path / "gone.npz")


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_named(file, cut):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(BundleError, match=r"unusual\.npz"):
        read_ood(file)


@pytest.mark.parametrize("name", NAMES)
def test_a_lacking_array_or_one_of_another_kind_is_named(file, name):
    arrays = arrays_of(file)
    array = arrays[name]
    for wrong, message in (
        (None, name),
        (array.astype(np.float16), f"{name} must have"),
        (array[None], f"{name} must have"),
        (np.full_like(array, np.nan), f"{name} must hold numbers"),
    ):
        rewrite(file, {**arrays, name: wrong})
        with pytest.raises(BundleError, match=rf"unusual\.npz.*{message}"):
            read_ood(file)


def test_images_and_distances_of_different_numbers_are_refused(file):
    rewrite(file, {**arrays_of(file), "images": features(7, 0)})
    with pytest.raises(BundleError, match="must be of as many images, but are of 7 and 200"):
        read_ood(file)


@pytest.mark.parametrize("distances", [[], [1], [2, 1], list(range(10_001))])
def test_distances_that_no_image_can_be_ranked_among_are_refused(file, distances):
    rewrite(file, {**arrays_of(file), "distances": np.array(distances, dtype=np.float64)})
    with pytest.raises(BundleError, match="ascending"):
        read_ood(file)


def test_numbers_that_cannot_be_divided_by_are_refused(file):
    rewrite(file, {**arrays_of(file), "usual": np.zeros(3)})
    with pytest.raises(BundleError, match="`usual` must be positive"):
        read_ood(file)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("scale", 0),
        ("scale", 1e-30),
        ("mean", 3e38),
        ("images", -3e38),
        ("histogram", 1e300),
        ("histogram", -1),
        ("layout", 9),
        ("layout", -1e300),
    ],
)
def test_numbers_that_no_image_has_are_refused(file, name, number):
    arrays = arrays_of(file)
    rewrite(file, {**arrays, name: np.full_like(arrays[name], number)})
    with pytest.raises(BundleError, match=rf"unusual\.npz: {name} must lie in"):
        read_ood(file)


def test_a_histogram_whose_shares_add_up_to_a_little_more_than_one_is_read(file):
    arrays = arrays_of(file)
    arrays["histogram"][-1] = 1 + 1e-12
    rewrite(file, arrays)
    assert read_ood(file).inputs.histogram[-1] > 1


def test_distances_that_unpack_to_more_than_any_reference_needs_are_not_unpacked(file):
    np.savez_compressed(file, **{**arrays_of(file), "distances": np.zeros(40 * 2**20)})
    assert file.stat().st_size < 2**20
    with pytest.raises(BundleError, match="distances may have 268435456 bytes, but has 335544320"):
        read_ood(file)


def test_no_object_is_unpickled(file):
    rewrite(file, {**arrays_of(file), "usual": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(BundleError, match=r"unusual\.npz"):
        read_ood(file)
