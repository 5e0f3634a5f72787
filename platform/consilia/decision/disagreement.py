"""How much the members of an ensemble disagree about an image. Source: docs/methods.md section 7.

Mutual information between the label and the member that is asked: Houlsby et al., Bayesian Active Learning for
Classification and Preference Learning, 2011; Lakshminarayanan et al., NeurIPS 2017, for ensembles.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from consilia.decision.combination import Shares

MemberProbabilities = npt.NDArray[np.float64]  # (n_members, n_folds, n_images, n_classes)
Disagreement = npt.NDArray[np.float64]  # (n_images,), nats, 0 ... log of the number of members or classes


def mutual_information(probabilities: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> Disagreement:
    """Return the entropy of the weighted mean less the weighted mean of the entropies, in nats.

    0 where all say the same, whatever it is; log 2 where two of equal weight are certain of different classes.

    Args:
        probabilities: (n_voters, ..., n_classes).
        weights: Of the voters, (n_voters,), not negative, of sum 1.

    Returns:
        (...): the shape of `probabilities` without its first and last axis.
    """
    pooled = entr(np.tensordot(weights, probabilities, axes=1)).sum(axis=-1)
    own = np.tensordot(weights, entr(probabilities).sum(axis=-1), axes=1)
    result: Disagreement = np.maximum(pooled - own, 0.0)  # rounding can leave -1e-17
    return result


def measure_disagreement(members: MemberProbabilities, weights: Shares) -> Disagreement:
    """Return what a loaded ensemble's networks disagree about each image, (n_images,).

    Between the members inside each fold ensemble, and of these the median: it exceeds the limit where most of the fold
    ensembles do, and each of them is of the kind that the limit was taken from. A single member has nobody
    to disagree with inside a fold, so its networks of different folds are compared; no limit applies to that number.

    Args:
        members: What each network says, before calibration.
        weights: Of the members, (n_members,), of sum 1: those of their combination.
    """
    if len(members) == 1:
        folds = members[0]
        return mutual_information(folds, np.full(len(folds), 1.0 / len(folds)))
    result: Disagreement = np.median(mutual_information(members, weights), axis=0)
    return result
