"""Learning rate over the steps: linear warm-up, then a cosine to almost 0.

The cosine spans the trial's full length, whether or not a scheduler ends it earlier (docs/methods.md section 2).
Source: Loshchilov and Hutter, SGDR, ICLR 2017.
"""

import math


def lr_factor(step: int, *, n_steps: int, warmup: float) -> float:
    """Return what the learning rate is multiplied by at `step` 0 ... n_steps-1, in (0, 1].

    Args:
        step: Optimiser steps taken before this one, over all epochs of the fold.
        n_steps: Steps of the whole fold.
        warmup: Share of the steps that the rise from 0 takes.
    """
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
