"""Orders are permutations that a stream decides; workers divide them, and lose and repeat nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.train.order import batch_slices, epoch_order, epoch_share, evaluation_shard, share, sqrt_sampled_order
from consilia.train.seeds import Purpose, generator

WORKERS = st.integers(1, 9)


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


@given(n_workers=WORKERS, batch_size=st.integers(2, 64), more=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_workers_divide_an_epoch_so_that_each_image_is_trained_on_once(n_workers, batch_size, more, seed):
    rows = np.arange(2 * n_workers + more) * 3 + 1
    batches = batch_slices(len(rows), batch_size, n_workers=n_workers)
    seen = []
    for worker in range(n_workers):
        # Each worker draws for itself: that the orders agree is part of the claim.
        order = epoch_order(rows, generator(seed, fold=1, epoch=2, purpose=Purpose.ORDER))
        seen.append([order[share(batch, worker=worker, n_workers=n_workers)] for batch in batches])
    assert len({len(parts) for parts in seen}) == 1  # or the workers would wait for each other for ever
    sizes = [len(part) for parts in seen for part in parts]
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 2
    assert sorted(np.concatenate([part for parts in seen for part in parts])) == rows.tolist()


@given(n_workers=WORKERS, batch_size=st.integers(2, 64), more=st.integers(0, 300))
def test_a_step_of_many_workers_sees_the_images_that_one_worker_s_step_would(n_workers, batch_size, more):
    for batch in batch_slices(2 * n_workers + more, batch_size, n_workers=n_workers):
        parts = [share(batch, worker=worker, n_workers=n_workers) for worker in range(n_workers)]
        assert [each for part in parts for each in range(part.start, part.stop)] == list(range(batch.start, batch.stop))


def test_one_worker_takes_every_batch_whole():
    batches = batch_slices(103, 16)
    assert [share(batch, worker=0, n_workers=1) for batch in batches] == batches


@given(n_workers=st.integers(2, 5), batch_size=st.integers(2, 40), more=st.integers(0, 120))
def test_workers_load_their_share_of_every_batch_and_then_what_mixup_mixes_it_with(n_workers, batch_size, more):
    batches = batch_slices(2 * n_workers + more, batch_size, n_workers=n_workers)
    shares = [epoch_share(batches, worker=each, n_workers=n_workers, partners=True) for each in range(n_workers)]
    for number, batch in enumerate(batches):
        whole = np.arange(batch.start, batch.stop)
        loaded = [share.places[share.batches[number]] for share in shares]
        n_own = [share.n_own[number] for share in shares]
        assert {share.n_whole[number] for share in shares} == {len(whole)}
        assert np.concatenate([part[:n] for part, n in zip(loaded, n_own, strict=True)]).tolist() == whole.tolist()
        partners = np.concatenate([part[n:] for part, n in zip(loaded, n_own, strict=True)])
        assert partners.tolist() == whole[::-1].tolist()


@pytest.mark.parametrize(("n_workers", "partners"), [(1, True), (1, False), (3, False)])
def test_partners_are_loaded_only_where_they_are_needed_and_not_there_anyway(n_workers, partners):
    batches = batch_slices(50, 12, n_workers=n_workers)
    shares = [epoch_share(batches, worker=each, n_workers=n_workers, partners=partners) for each in range(n_workers)]
    assert sorted(np.concatenate([share.places for share in shares])) == list(range(50))
    if n_workers == 1:
        assert list(shares[0].batches) == batches


def test_too_few_images_for_the_workers_are_refused():
    with pytest.raises(ValueError, match="4 workers need two images each, but the epoch has 7"):
        batch_slices(7, 16, n_workers=4)


@given(n_workers=WORKERS, n=st.integers(0, 200))
def test_every_image_is_scored_by_exactly_one_worker_in_its_order(n_workers, n):
    rows = np.random.default_rng(n).permutation(1000)[:n]
    shards = [evaluation_shard(rows, worker=worker, n_workers=n_workers) for worker in range(n_workers)]
    assert np.concatenate(shards).tolist() == rows.tolist()
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_root_sampling_gives_classes_the_shares_of_their_roots():
    labels = np.repeat([0, 1], [8100, 900])
    rows = np.arange(9000) + 5
    drawn = sqrt_sampled_order(rows, labels, np.random.default_rng(0))
    assert len(drawn) == 9000
    assert np.isin(drawn, rows).all()
    share = (labels[drawn - 5] == 1).mean()
    assert share == pytest.approx(30 / (30 + 90), abs=0.02)  # roots of 900 and 8100
