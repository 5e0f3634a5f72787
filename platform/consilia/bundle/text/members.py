"""Members of an ensemble in words, for model cards and terminals."""

from consilia.bundle.document import BundleDocument
from consilia.decision.combination import Stack

SHARE = "share of absolute coefficients"  # no weight: coefficients may be negative and make up for each other


def describe_members(document: BundleDocument) -> str:
    """Return the trials in one line, each with its weight, or in a stack with its share of absolute coefficients."""
    stack = document.stack
    shares = document.combination.votes if stack is None else stack.shares
    kind = "refit of trial" if document.build == "fast" else "trial"
    members = zip(document.members, shares, strict=True)
    listed = ", ".join(f"{kind} {member.trial} ({share:.2f})" for member, share in members)
    return listed if stack is None else f"stack of {listed}; in brackets each one's {SHARE}, which is no weight"


def describe_stack(stack: Stack) -> str:
    """Return in sentences how a stack combines its members, and how its table is to be read."""
    return (
        "They are stacked: a multinomial logistic regression on their log-probabilities, fitted to the out-of-fold "
        f"predictions with regularisation strength {stack.strength:g} towards the members' equal geometric mean; its "
        f"coefficients stand in `ensemble.json`. The {SHARE} is no weight: coefficients may be negative, and those of "
        "members that say much the same may stand for each other."
    )
