import numpy as np
import pytest
import torch

from consilia.training.batches import (
    DeviceImages,
    MappedImages,
    batch_slices,
    epoch_order,
    evaluation_batches,
    sqrt_sampled_order,
)


@pytest.mark.parametrize("batch_size", [2, 3, 16, 64])
def test_batches_cover_an_epoch_in_order_and_none_is_a_single_image(batch_size):
    for n in range(2, 300):
        slices = batch_slices(n, batch_size)
        covered = [number for part in slices for number in range(part.start, part.stop)]
        sizes = [part.stop - part.start for part in slices]
        assert covered == list(range(n))
        assert min(sizes) >= 2
        assert max(sizes) <= max(batch_size, 3)
        assert max(sizes) - min(sizes) <= 1


def test_an_epoch_is_a_permutation_that_its_generator_decides():
    rows = np.array([4, 8, 15, 16, 23, 42])
    one, two, other = (epoch_order(rows, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert sorted(one) == sorted(rows)
    assert one.tolist() == two.tolist() != other.tolist()


def test_root_sampling_gives_classes_the_shares_of_their_roots():
    labels = np.repeat([0, 1], [8100, 900])
    rows = np.arange(9000) + 5
    drawn = sqrt_sampled_order(rows, labels, np.random.default_rng(0))
    assert len(drawn) == 9000
    assert np.isin(drawn, rows).all()
    share = (labels[drawn - 5] == 1).mean()
    assert share == pytest.approx(30 / (30 + 90), abs=0.02)  # roots of 900 and 8100


@pytest.mark.parametrize("images", [DeviceImages, MappedImages])
def test_images_are_gathered_by_row_in_any_number_and_order(images):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    source = images(pixels, torch.device("cpu"))
    for rows in ([3, 1, 19], [0], [7, 7, 2, 5, 0, 11], [18]):
        gathered = source.gather(np.array(rows))
        assert gathered.dtype == torch.uint8
        np.testing.assert_array_equal(gathered.numpy(), pixels[rows])


def test_evaluation_goes_through_the_rows_in_order():
    batches = list(evaluation_batches(np.arange(10), 4))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
