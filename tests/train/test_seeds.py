import itertools

import torch

from consilia.train.seeds import Purpose, generator, seed_torch


def test_every_seed_fold_epoch_and_purpose_has_a_stream_of_its_own_that_repeats():
    places = list(itertools.product((0, 1), (0, 1), (0, 1, 2), Purpose))

    def draw(place):
        seed, fold, epoch, purpose = place
        return generator(seed, fold=fold, epoch=epoch, purpose=purpose).random()

    drawn = [draw(place) for place in places]
    assert len(set(drawn)) == len(places)
    assert drawn == [draw(place) for place in places]


def test_torchs_generator_repeats_by_place_and_differs_between_epochs():
    drawn = []
    for epoch in (1, 2, 1):
        seed_torch(3, fold=0, epoch=epoch, purpose=Purpose.DROPOUT)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[2] != drawn[1]


def test_workers_of_one_trial_draw_dropout_of_their_own_and_the_first_as_one_alone():
    drawn = []
    for worker in ({}, {"worker": 0}, {"worker": 1}, {"worker": 2}):
        seed_torch(3, fold=0, epoch=1, purpose=Purpose.DROPOUT, **worker)
        drawn.append(tuple(torch.rand(4).tolist()))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3
