"""What cards, errors and terminals call things: builds, members, readings. Source: docs/methods.md section 4.

max: each member brings the networks of all folds, each of which left one fold's images out. fast: each member is one
network, a refit, which was trained on the images of all folds.
"""

from consilia.bundle.document import BundleDocument
from consilia.config.reading import FixedWindows, PercentileWindow, Reading
from consilia.config.recipe import Build

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


def describe_members(document: BundleDocument) -> str:
    """Return the trials in one line, each with its weight."""
    kind = "refit of trial" if document.build == "fast" else "trial"
    return ", ".join(f"{kind} {member.trial} ({member.weight:.2f})" for member in document.members)


_FITS = {
    "pad": "whole, its sides in proportion, on a black square",
    "crop": "by its central square",
    "stretch": "with its sides scaled apart",
}
_FRAMES = {
    "single": "A file with several frames is refused.",
    "first": "Of a file with several frames the first is taken.",
    "middle": "Of a file with several frames the middle one is taken.",
    "each": "Each frame of a file is an image of its own.",
}


def describe_window(reading: Reading) -> str:
    """Return which values become grey, without a full stop."""
    window = reading.window
    if isinstance(window, FixedWindows):
        windows = [f"{each.name} {each.center:g}/{each.width:g}".strip() for each in window.windows]
        return "grey values by centre and width of " + ", ".join(windows)
    if isinstance(window, PercentileWindow):
        return f"grey values from the image's percentiles {window.low:g} to {window.high:g}"
    return "grey values as the file says: its own window, or the full range of its type"


def describe_reading(reading: Reading) -> str:
    """Return in sentences how a file becomes stored pixels."""
    if isinstance(reading.window, FixedWindows) and len(reading.window.windows) > 1:
        channels = "one channel a window"
    else:
        channels = {1: "grey", 3: "RGB"}[reading.channels]
    return (
        f"An image is fitted to {reading.size} x {reading.size} pixels, {channels}, {_FITS[reading.fit]}; "
        f"{describe_window(reading)}. {_FRAMES[reading.frames]}"
    )
