"""Random numbers by purpose: equal hyperparameters give equal scores, and a resumed epoch repeats itself.

Nothing derives from the trial's number.
"""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are for; each purpose has a stream of its own. A value is never reused."""

    WEIGHTS = 0
    ORDER = 1
    WARP = 2
    MIXUP = 3
    DROPOUT = 4


def generator(seed: int, *, fold: int, epoch: int, purpose: Purpose) -> np.random.Generator:
    """Return the stream of one purpose in one epoch of one fold.

    Args:
        seed: The study's.
        fold: 0 ... k-1; k for a refit, which draws from the stream after the last fold's.
        epoch: 1 ... epochs; 0 before training.
        purpose: What the numbers are for.
    """
    return np.random.default_rng(_sequence(seed, fold, epoch, purpose))


def seed_torch(seed: int, *, fold: int, epoch: int, purpose: Purpose, worker: int = 0) -> None:
    """Seed torch's global generators, which give layers their weights and dropout.

    Args:
        seed: The study's.
        fold: As of `generator`.
        epoch: As of `generator`.
        purpose: What the numbers are for.
        worker: Its number in a data-parallel trial, where each worker draws for its own images.
    """
    sequence = _sequence(seed, fold, epoch, purpose, *([worker] if worker else []))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _sequence(*parts: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([int(part) for part in parts])
