"""What the best trials scored with other folds and seeds, beside what they scored in the search."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from consilia.config.records import Confirmation
from consilia.metrics.estimates import Estimate
from consilia.metrics.scores import METRICS


def optimism(confirmations: Sequence[Confirmation], *, metric: str) -> Estimate | None:
    """Return by how much the search flatters its best trials, with a 95 % t-interval over them.

    Above 0 they were better in the search, whatever the metric's direction. None of fewer than two trials.
    """
    if len(confirmations) < 2:
        return None
    from scipy.special import stdtrit  # it takes half a second, and few studies confirm

    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    differences = sign * np.array([each.difference for each in confirmations])
    n, mean = len(differences), float(differences.mean())
    margin = float(stdtrit(n - 1, 0.975) * differences.std(ddof=1) / np.sqrt(n))
    return Estimate(value=mean, low=mean - margin, high=mean + margin)


def confirmation_lines(confirmations: Sequence[Confirmation], *, metric: str) -> tuple[str, ...]:
    """Return a line for each trial, and one for all of them if they are several."""
    name = metric.replace("_", " ")
    lines = [
        f"trial {each.number}: {name} {each.searched:.4f} in the search, {each.confirmed:.4f} with other folds and "
        f"seeds ({min(each.folds):.4f} to {max(each.folds):.4f} over the folds)"
        for each in confirmations
    ]
    found = optimism(confirmations, metric=metric)
    if found is not None:
        lines.append(
            f"on average of these {len(confirmations)}, the search flatters by {found.value:+.4f} {name} "
            f"(95 %: {found.low:+.4f} to {found.high:+.4f})"
        )
    return tuple(lines)


def confirmations_to_json(confirmations: Sequence[Confirmation], *, metric: str) -> dict[str, Any]:
    """Return each trial's scores and what they differ by, and by how much the search flatters on average."""
    found = optimism(confirmations, metric=metric)
    return {
        "trials": [
            {
                "trial": each.number,
                "search": each.searched,
                "confirmed": each.confirmed,
                "difference": each.difference,
                "fold_scores": list(each.folds),
                "fold_sd": float(np.std(each.folds, ddof=1)),
            }
            for each in confirmations
        ],
        "optimism": None if found is None else found.model_dump(mode="json"),
    }
