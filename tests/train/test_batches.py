"""Both ways to the device hand out the same bytes, one batch ahead, and leave nothing behind."""

import mmap
import threading

import numpy as np
import pytest
import torch

from consilia.train.batches import DeviceImages, MappedImages, evaluation_batches, fits

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
N = 20
PARTS = [[3, 1, 19], [0], [7, 7, 2, 5, 0, 11], [18], list(range(N)), [4, 4]]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A read-only memory map, as a store has."""
    file = tmp_path_factory.mktemp("pixels") / "pixels.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8))
    return np.load(file, mmap_mode="r")


def rows(parts):
    return [np.array(part, dtype=np.int64) for part in parts]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [DeviceImages, MappedImages])
class TestImages:
    @pytest.fixture
    def images(self, make, pixels, device):
        return make(pixels, torch.device(device))

    def test_batches_hold_their_rows_in_any_number_and_order(self, images, pixels, device):
        for part, batch in zip(PARTS, images.batches(rows(PARTS)), strict=True):
            assert batch.dtype == torch.uint8
            assert batch.device.type == device
            np.testing.assert_array_equal(batch.cpu().numpy(), pixels[part])

    def test_a_batch_stays_as_it_is_while_the_next_is_on_its_way(self, images, pixels):
        numbers = np.random.default_rng(1).integers(0, N, (200, 8))
        for part, batch in zip(numbers, images.batches(list(numbers)), strict=True):
            for _ in range(3):  # the next batch is written in the meantime, if it is written in the wrong place
                np.testing.assert_array_equal(batch.cpu().numpy(), pixels[part])

    def test_two_epochs_at_a_time_do_not_disturb_each_other(self, images, pixels):
        forth, back = rows([[0, 1], [2, 3], [4, 5]]), rows([[9, 8], [7, 6], [5, 4]])
        for one, two, first, second in zip(forth, back, images.batches(forth), images.batches(back), strict=True):
            np.testing.assert_array_equal(first.cpu().numpy(), pixels[one])
            np.testing.assert_array_equal(second.cpu().numpy(), pixels[two])

    def test_no_batches_are_no_error(self, images):
        assert list(images.batches([])) == []

    @pytest.mark.parametrize("wrong", [-1, N])
    def test_a_row_that_the_store_lacks_is_refused_before_any_batch(self, images, wrong):
        with pytest.raises(IndexError, match=f"rows must lie in 0 ... {N - 1}"):
            next(images.batches(rows([[0, 1], [2, wrong]])))

    def test_leaving_early_ends_whatever_reads_ahead(self, images):
        batches = images.batches(rows([[0], [1], [2], [3]]))
        next(batches)
        batches.close()
        assert not readers()

    def test_what_scoring_has_touched_can_be_trained_on(self, images):
        weight = torch.nn.Parameter(torch.ones(3, device=next(images.batches(rows([[0]]))).device))
        with torch.inference_mode():
            list(images.batches(rows(PARTS)))
        for batch in images.batches(rows(PARTS)):
            (batch.float() * weight).sum().backward()
        assert (weight.grad > 0).all()


def test_the_next_batch_is_read_while_the_present_one_is_in_use(pixels):
    read: list[int] = []
    second_was_read = threading.Event()

    class Watched(np.ndarray):
        def take(self, rows, *args, **kwargs):
            read.append(int(rows[0]))
            if len(read) == 2:
                second_was_read.set()
            return np.asarray(self).take(rows, *args, **kwargs)

    batches = MappedImages(np.asarray(pixels).view(Watched), torch.device("cpu")).batches(rows([[5], [6], [7]]))
    next(batches)
    assert second_was_read.wait(timeout=60)  # nobody has asked for it
    assert read == [5, 6]
    next(batches)
    next(batches)
    assert read == [5, 6, 7]


def test_a_failed_read_reaches_whoever_asks_for_the_batch():
    class Broken(np.ndarray):
        def take(self, rows, *args, **kwargs):
            raise OSError("the disk is gone")

    batches = MappedImages(np.zeros((3, 2, 2, 1), np.uint8).view(Broken), torch.device("cpu")).batches(rows([[0], [1]]))
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not readers()


@pytest.mark.parametrize(("side", "is_told"), [(200, True), (64, False)])
def test_the_kernel_is_told_the_pages_of_images_that_are_larger_than_a_few(side, is_told, tmp_path, monkeypatch):
    told = []

    class Told(mmap.mmap):
        def madvise(self, option, start, length):
            told.append((start, start + length))
            super().madvise(option, start, length)

    monkeypatch.setattr(mmap, "mmap", Told)
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (6, side, side, 1), dtype=np.uint8))
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    parts = [[5, 1], [0]]
    for part, batch in zip(parts, MappedImages(pixels, torch.device("cpu")).batches(rows(parts)), strict=True):
        np.testing.assert_array_equal(batch.numpy(), pixels[part])
    header = (tmp_path / "pixels.npy").stat().st_size - pixels.nbytes
    starts = [header + row * side**2 for row in (5, 1, 0)] if is_told else []
    assert told == [(start - start % mmap.PAGESIZE, start + side**2) for start in starts]


def test_images_lie_on_the_device_only_while_most_of_it_stays_free():
    assert fits(25, 100)
    assert not fits(26, 100)


def test_a_store_reaches_the_device_whole_however_many_uploads_it_takes(pixels, monkeypatch):
    monkeypatch.setattr("consilia.train.batches._UPLOAD_BYTES", 7 * pixels[:1].nbytes)
    (batch,) = DeviceImages(pixels, torch.device("cpu")).batches([np.arange(N)])
    np.testing.assert_array_equal(batch.numpy(), pixels)


def test_evaluation_goes_through_the_rows_in_order():
    batches = evaluation_batches(np.arange(10), 4)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
