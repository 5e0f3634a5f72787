"""What is written beside an ONNX graph: what it takes, what it gives, and what of the ensemble it leaves out."""

import json
import textwrap
from itertools import product
from typing import Any

from consilia.bundle.document import BundleDocument
from consilia.bundle.text import describe_reading
from consilia.train.input import ANTIALIAS_ABOVE

GRAPH, ABOUT, README, REFERENCE = "graph.onnx", "export.json", "README.md", "reference.py"
INPUT, OUTPUT = "images", "probabilities"

_WIDTH = 110  # of a line, characters

LEFT_OUT = (
    "Prediction sets: which classes an image may have, with the promise that holds for them.",
    "Reasons for review: thresholds, disagreement between the networks, and every other rule by which the ensemble "
    "asks a person to look.",
    "The gate for unusual images: the graph answers for a photograph of a cat as it does for a radiograph, and as "
    "surely.",
    "Decoding and squaring of files, and the refusal of kinds of files that the ensemble was not trained on.",
    "The correction for another prevalence.",
)
_SQUARING = (
    "Shrinking and enlarging are Pillow's BILINEAR, which averages over area when it shrinks; colour becomes grey by "
    "its luminance (ITU-R BT.601); pad centres the image on black. `consilia.load(BUNDLE).read(files)` gives exactly "
    "these squares."
)


def about_export(document: BundleDocument, *, opset: int) -> dict[str, Any]:
    """Return what `export.json` says, but for `compared`.

    Args:
        document: Of the ensemble.
        opset: Version of ONNX's operators that the graph uses.
    """
    reading, n_classes = document.reading, len(document.classes)
    places = product(range(len(document.members)), range(document.n_folds))
    square = ["batch", reading.size, reading.size, reading.channels]
    return {
        "ensemble": document.name,
        "bundle_digest": document.digest,
        "consilia": document.consilia,
        "graph": GRAPH,
        "opset": opset,
        "classes": list(document.classes),
        "input": {"name": INPUT, "type": "uint8", "shape": square, "values": "0 ... 255, channels last"},
        "output": {"name": OUTPUT, "type": "float64", "shape": ["batch", n_classes], "values": "sum to 1, calibrated"},
        "before_the_graph": {
            **reading.model_dump(mode="json"),
            "kinds": list(document.kinds),
            "in_words": f"{describe_reading(reading)} {_SQUARING}",
        },
        "in_the_graph": [_network(document, member, fold) for member, fold in places],
        "not_in_the_graph": list(LEFT_OUT),
    }


def _network(document: BundleDocument, member: int, fold: int) -> dict[str, Any]:
    """Return how the graph prepares a square for one network."""
    chosen = document.members[member]
    shown = chosen.networks[fold].preprocessing
    antialias = shown.size > ANTIALIAS_ABOVE * shown.image_size
    resized = "no" if shown.size == shown.image_size else f"bilinear{', antialiased' if antialias else ''}"
    return {
        "trial": chosen.trial,
        "fold": chosen.networks[fold].fold,
        "weight": chosen.weight,
        "model": chosen.model.architecture.timm,
        "image_size": shown.image_size,
        "resized": resized,
        "mean": list(shown.mean),  # of pixel / 255, a value a channel
        "std": list(shown.std),
    }


def metadata(document: BundleDocument) -> dict[str, str]:
    """Return what the graph's own file says of itself, for whoever gets it alone."""
    return {
        "ensemble": document.name,
        "bundle_digest": document.digest,
        "classes": json.dumps(document.classes),
        "note": "Calibrated probabilities only. Not in this graph: " + " ".join(LEFT_OUT),
    }


def readme(document: BundleDocument, about: dict[str, Any]) -> str:
    """Return the page that people read first."""
    compared, shape = about["compared"], ", ".join(map(str, about["input"]["shape"]))
    paragraphs = [
        f"# {document.name} as an ONNX graph",
        f"{GRAPH} computes the calibrated class probabilities of the ensemble {document.name}. **It is not the whole "
        "ensemble.** The graph leaves out:",
        *(f"- {each}" for each in LEFT_OUT),
        "Whoever shows its answers to people must supply these, or say that they are missing. It is research software "
        "and not a medical device. card.md is the ensemble's model card: what it says of sets, thresholds and review "
        "describes the ensemble, not this graph.",
        "## Use",
        f"The input `{INPUT}` is uint8 ({shape}), the output `{OUTPUT}` float64 (batch, {len(document.classes)}), in "
        f"the order {', '.join(document.classes)}. The batch may have any size. {REFERENCE} asks the graph with NumPy "
        "and onnxruntime alone. The label is the class of the largest probability.",
        f"How a file becomes the square that the graph takes: {about['before_the_graph']['in_words']}",
        "Resizing to each network's size, normalisation, the networks, their average and the calibration are in the "
        f"graph. {ABOUT} says all of this to programs.",
        "## Compared",
        f"On the {compared['golden_images']} golden images the graph differs from the ensemble's stored probabilities "
        f"by at most {compared['golden_difference']:.1e}. On {compared['images']} further images "
        f"({compared['source']}) it differs from the ensemble's by at most {compared['images_difference']:.1e}. Every "
        "label is the same.",
        f"Bundle digest: {about['bundle_digest']}",
    ]
    wrapped = (textwrap.fill(each, _WIDTH, break_long_words=False, break_on_hyphens=False) for each in paragraphs)
    return "\n\n".join(wrapped) + "\n"
