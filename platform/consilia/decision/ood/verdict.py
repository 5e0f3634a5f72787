"""What becomes of images that are unlike those of the training. Source: docs/methods.md section 7."""

from typing import get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from consilia.config.frozen import Frozen
from consilia.config.records import Familiarity, OodVerdict

FLAG_BELOW = 0.01  # p-value
REJECT_BELOW = 0.001
REJECT_FROM = 1000  # reference images; with fewer, no p-value is surely below `REJECT_BELOW`
FLAG_FROM = round(1 / FLAG_BELOW)  # reference images; with fewer, no p-value is below `FLAG_BELOW`


class OodReport(Frozen):
    """What of it stands in `ensemble.json`; what it compares with is a file of its own."""

    compared_with: int = Field(ge=2)  # images of the training, among whose distances new ones are ranked

    @property
    def can_flag(self) -> bool:
        """Say whether an image can be unusual by its distance."""
        return self.compared_with >= FLAG_FROM

    @property
    def can_reject(self) -> bool:
        """Say whether an image can be rejected."""
        return self.compared_with >= REJECT_FROM


STATES: tuple[Familiarity, ...] = get_args(Familiarity)  # from the usual to the gravest


def rank_states(
    p_values: npt.NDArray[np.float64], breaks_rule: npt.NDArray[np.bool_], *, n_reference: int
) -> npt.NDArray[np.int64]:
    """Return the place of each image's state in `STATES`, of the shape of the arguments; see `judge`."""
    is_unusual = (p_values < FLAG_BELOW) | breaks_rule
    is_rejected = (p_values < REJECT_BELOW) & (n_reference >= REJECT_FROM)
    return np.where(is_rejected, 2, np.where(is_unusual, 1, 0))


def judge(p_value: float, broken_rules: tuple[str, ...] = (), *, part: str, n_reference: int) -> OodVerdict:
    """Say what becomes of an image.

    A reference of fewer than 100 images calls none unusual by its distance, and one of fewer than 1,000 rejects none.
    A broken rule makes an image unusual too, but rejects none.

    Args:
        p_value: Of its distance.
        broken_rules: A phrase for each rule that it breaks.
        part: What of it is unlike the nearest training image above all.
        n_reference: Distances that its own is ranked among.
    """
    rank = rank_states(np.array(p_value), np.array(bool(broken_rules)), n_reference=n_reference)
    return OodVerdict(state=STATES[int(rank)], p_value=p_value, part=part, broken_rules=broken_rules)


def reasons(found: OodVerdict | None) -> tuple[str, ...]:
    """Return why a person should look at an image, the gravest first; nothing for one that is usual or unchecked."""
    if found is None:
        return ()
    where = f"above all in its {found.part} (p {found.p_value:.4f})"
    if found.state == "rejected":
        return f"rejected: unlike the training images, {where}", *found.broken_rules
    if found.p_value < FLAG_BELOW:  # rules alone make an image unusual too
        return f"unusual: unlike most training images, {where}", *found.broken_rules
    return found.broken_rules


def describe_ood(report: OodReport) -> tuple[str, ...]:
    """Return in sentences what images are compared with, and what it can tell."""
    compared = (
        f"Each image is compared with {report.compared_with:,} images of the training, by its grey values, its edges "
        "and where it is light and dark, and its distance from the nearest is ranked among theirs from each other."
    )
    rules = (
        "An image is unusual, too, if it breaks a rule on shape, grey values, colour or layout, whose limits come from "
        "the same images. An image of the same kind that shows another body part or disease can look usual."
    )
    if report.can_reject:
        told = f"p < {FLAG_BELOW:g}: unusual, a person should look. p < {REJECT_BELOW:g}: rejected."
    elif report.can_flag:
        told = f"p < {FLAG_BELOW:g}: unusual, a person should look. Rejecting takes {REJECT_FROM:,} images."
    else:
        told = f"These are too few for an image to be unusual by its distance, which takes {FLAG_FROM} of them."
    return compared, told, rules
