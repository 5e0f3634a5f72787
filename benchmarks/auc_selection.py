"""Bagged greedy selection on the AUC, as `consilia.ensemble.selection` does it on the log loss."""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from consilia.config.recipe import Greedy
from consilia.config.records import Labels
from consilia.ensemble.selection import Candidates, CandidateWeights, Truth, weigh_in_bags


def select_on_auc(greedy: Greedy, candidates: Candidates, truth: Truth, *, seed: int) -> CandidateWeights:
    """Return the weight of every candidate; arguments as of `select`. For two classes."""
    assert candidates.shape[2] == 2
    scores, labels = candidates[:, :, 1], truth.labels
    pool = np.sort(np.argsort(-aucs(scores, labels), kind="stable")[: greedy.pool])
    return weigh_in_bags(
        pool,
        greedy,
        lambda bag: _add_greedily(scores[bag], labels, additions=greedy.additions),
        n_candidates=len(scores),
        seed=seed,
    )


def aucs(scores: npt.NDArray[np.float64], labels: Labels) -> npt.NDArray[np.float64]:
    """Return the AUC of each row of `scores`, (n_rows, n_images); ties count a half."""
    positive = labels == 1
    n, ranks = int(positive.sum()), rankdata(scores, axis=1)
    result: npt.NDArray[np.float64] = (ranks[:, positive].sum(axis=1) - n * (n + 1) / 2) / (n * (len(labels) - n))
    return result


def _add_greedily(scores: npt.NDArray[np.float64], labels: Labels, *, additions: int) -> npt.NDArray[np.int64]:
    """Return how often each row is added, additions after the best one dropped."""
    total = np.zeros(scores.shape[1])
    added: list[int] = []
    reached: list[float] = []
    for _ in range(additions):
        found = np.round(aucs(total + scores, labels), 12)
        added.append(int(np.argmax(found)))
        reached.append(float(found[added[-1]]))
        total = total + scores[added[-1]]
    return np.bincount(added[: int(np.argmax(reached)) + 1], minlength=len(scores))
