"""Numbers with their intervals, as JSON keeps them. Source: docs/methods.md section 8."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from consilia.config.frozen import Frozen

ESTIMATES = {
    "best_single": "best trial, in-sample",
    "in_sample": "ensemble, in-sample",
    "cross_fitted": "ensemble, cross-fitted",
    "bias_corrected": "ensemble, bias-corrected (BBC-CV)",
    "test": "locked test split",
}
"""What a row of the honest report is called, from flattering to honest."""


class Estimate(Frozen):
    """A number with the ends of its interval over patients: of 95 %, unless its own type says otherwise."""

    value: float
    low: float
    high: float


class HonestRow(Frozen):
    """One way to say what was achieved, and which predictor it describes."""

    kind: Literal["best_single", "in_sample", "cross_fitted", "bias_corrected", "test"]
    predictor: str  # in words
    images: int
    patients: int
    metrics: dict[str, Estimate | None]  # None: undefined on these labels


class HonestReport(Frozen):
    """The same search, told from the most flattering number to the most honest one."""

    trials: int  # that were tried, in whatever state they ended
    candidates: int  # of them, those that finished every fold
    draws: int  # bootstrap samples of the bias-corrected row
    rows: tuple[HonestRow, ...]


def defined_or_none(estimates: Mapping[str, Estimate]) -> dict[str, Estimate | None]:
    """Return the estimates with None where a number is undefined (NaN), which JSON does not know."""
    return {name: None if np.isnan(each.value) else each for name, each in estimates.items()}
