"""The two builds in words: what is shipped, and which predictor a number describes. Source: docs/methods.md section 4.

max: each member brings the networks of all folds, each of which left one fold's images out. fast: each member is one
network, a refit, which was trained on the images of all folds.
"""

from typing import Literal

Build = Literal["max", "fast"]

INTERNAL: dict[Build, str] = {
    "max": "An internal estimate: hyperparameters were searched on these images, and one fold's networks are "
    "scored, where the shipped predictor averages those of all folds.",
    "fast": "An internal estimate: hyperparameters were searched on these images, and the members' networks of the "
    "folds are scored. The shipped networks were trained on all of these images, so that only others can score them.",
}

THRESHOLDS: dict[Build, str] = {
    "max": "Measured on cross-validated images, each by an ensemble that was selected and calibrated without its fold; "
    "the shipped predictor averages the networks of all folds.",
    "fast": "Measured on cross-validated images, each by an ensemble of one fold's networks that was selected and "
    "calibrated without that fold. The shipped networks are others: they were trained on all of these images, so "
    "neither thresholds nor the limit of disagreement can be measured on them, and these are the nearest there are.",
}

CALIBRATOR: dict[Build, str] = {
    "max": "",
    "fast": "It was fitted on the cross-validated predictions of the folds' networks; the shipped networks have seen "
    "all of these images, so that only others can show how well it fits them.",
}

MEMBERS: dict[Build, str] = {
    "max": "",
    "fast": "Each member is one network, trained on all images outside the test split for the study's epochs, with no "
    "image held out.",
}

NO_SETS = (
    "No prediction sets: they compare a new image with what networks said of images that they never saw, and networks "
    "trained on all images leave none out. Scores of the folds' networks promise nothing of these and are not used."
)
WITHOUT_SET: dict[Build, str] = {
    "max": "",
    "fast": "the networks were trained on all images, which leaves none to calibrate prediction sets on",
}


def describe_shipped(build: Build, *, n_members: int, n_folds: int) -> str:
    """Return in words which predictor a bundle ships."""
    trials = "one trial" if n_members == 1 else f"{n_members} trials"
    if build == "max":
        return f"the shipped predictor: {trials}, the average of its {n_folds} fold ensembles"
    each = "" if n_members == 1 else " each"
    return f"the shipped predictor: {trials},{each} one network trained on all images outside the test split"


def describe_trials(build: Build, *, n_members: int) -> str:
    """Return in words what cross-validated numbers of the shipped members describe."""
    trials = "the shipped trial" if n_members == 1 else f"the {n_members} shipped trials"
    if build == "max":
        return trials
    return f"{trials} by {'its' if n_members == 1 else 'their'} folds' networks, which are not the shipped ones"
