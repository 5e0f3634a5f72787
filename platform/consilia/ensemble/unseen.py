"""What a combination says of the images that it was fitted to, as if they were new. Source: docs/methods.md section 4.

Calibrators and prediction sets are made from it: from what a stack says of the images that it was fitted to, an
ensemble would learn to be surer than it may be.
"""

import numpy as np
import numpy.typing as npt

from consilia.config.records import Probabilities
from consilia.decision.combination import AnyCombination, LinearPool, combine
from consilia.ensemble.selection import Candidates, Truth
from consilia.ensemble.stacking import predict_left_out


def combine_unseen(
    candidates: Candidates,
    combination: AnyCombination,
    truth: Truth,
    *,
    fitted: npt.NDArray[np.bool_] | None = None,
) -> Probabilities:
    """Return each image as the combination would see a new one, (n_images, n_classes).

    The few weights of a linear pool hardly follow single images, so it is taken as it is. The coefficients of a stack
    are fitted again without each fold, of the same members and with the same strength. Images of a single fold cannot
    be left out of anything, and are taken as they are.

    Args:
        candidates: Out-of-fold probabilities.
        combination: Of the candidates.
        truth: About the images.
        fitted: Which of the images the combination was fitted to, (n_images,); None: all.

    Raises:
        FitError: A fit misses its optimum.
    """
    result = combine(candidates, combination)
    rows = np.ones(len(truth.labels), dtype=bool) if fitted is None else fitted
    if isinstance(combination, LinearPool) or len(np.unique(truth.folds[rows])) == 1:
        return result
    members, known = candidates[list(combination.members)][:, rows], truth.subset(rows)
    result[rows] = predict_left_out(members, known.labels, known.weights, known.folds, strength=combination.strength)
    return result
