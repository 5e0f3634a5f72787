"""Arrays of a bundle are read as they were written, or refused by the name of their file."""

import numpy as np
import pytest

from consilia.bundle.arrays import read_array, read_arrays
from consilia.errors import BundleError

LAYOUTS = {"a": ((2, 3), np.float32), "b": ((None,), np.int64)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.arange(5000, dtype=np.int64))
    return path


def test_what_was_written_is_read_and_may_be_changed(file):
    found = read_arrays(file, LAYOUTS)
    np.testing.assert_array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], np.arange(5000))
    found["a"][0, 0] = 7


def test_every_damaged_byte_is_an_error_of_the_bundle_or_changes_nothing_that_is_read(file):
    content = file.read_bytes()
    expected = read_arrays(file, LAYOUTS)
    refused = 0
    for place in np.linspace(0, len(content) - 1, 400).astype(int):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            found = read_arrays(file, LAYOUTS)
        except BundleError:
            refused += 1
        else:
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
    assert refused > 300


@pytest.mark.parametrize("wrong", [np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros(6, np.float32)])
def test_another_shape_or_type_is_refused(file, wrong):
    np.savez(file, a=wrong, b=np.arange(3))
    with pytest.raises(BundleError, match=r"a must have shape \(2, 3\) and type float32"):
        read_arrays(file, LAYOUTS)


def test_an_array_that_unpacks_to_too_much_is_not_unpacked(file):
    np.savez_compressed(file, a=np.zeros((2, 3), np.float32), b=np.zeros(34 * 2**20, np.int64))
    with pytest.raises(BundleError, match="b may have 268435456 bytes"):
        read_arrays(file, LAYOUTS)


def test_a_file_that_is_cut_is_refused(tmp_path):
    path = tmp_path / "one.npy"
    np.save(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BundleError, match="too small"):
        read_array(path, ((None,), np.int64))
