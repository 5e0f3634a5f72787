"""An ensemble that asks only some of its members, as a document of its own. Source: docs/methods.md section 4."""

from consilia.bundle.document import BundleDocument
from consilia.decision.combination import keep_largest
from consilia.errors import UserError


def is_cut(document: BundleDocument, most: int) -> bool:
    """Say whether asking at most so many members leaves some out.

    Raises:
        UserError: `most` is below 1.
    """
    if most < 1:
        raise UserError(f"At least 1 member must be asked, but got max_members={most}.")
    return most < len(document.members)


def cut_document(document: BundleDocument, n_members: int) -> tuple[BundleDocument, tuple[int, ...]]:
    """Return what the document says of the ensemble with fewer members, and the numbers of those members, ascending.

    Weights, calibrator and sizes are those of the smaller ensemble. Evaluations and limits stay those of all members:
    no image may be judged by them.

    Args:
        document: Of all members.
        n_members: How many stay, fewer than there are.

    Raises:
        UserError: It was not calibrated for fewer members.
    """
    if not document.sizes:
        raise UserError(
            f"Ensemble {document.name} was calibrated for all its {len(document.members)} members only. Leave "
            "max_members out, or build it again: consilia ensemble STUDY"
        )
    pool = keep_largest(document.combination, n_members)
    members = tuple(
        document.members[number].model_copy(update={"weight": pool.weights[number]}) for number in pool.members
    )
    sizes = document.sizes[:n_members]
    changed = document.model_copy(update={"members": members, "sizes": sizes, "calibrator": sizes[-1].calibrator})
    return changed, pool.members
