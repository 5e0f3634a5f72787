"""Pictures of the images that show the same, side by side, as HTML."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from consilia.audit.document import Case, Image
from consilia.data.store.image_store import ImageStore

MOST_CASES = 500  # with pictures; the rest stand in audit.json
MOST_IMAGES = 12  # of one case
_SIDE = 128  # pixels of a thumbnail at most

_SECTIONS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("Exact duplicates across splits", lambda case: case.kind == "exact" and case.crosses_splits),
    ("Near duplicates across splits", lambda case: case.crosses_splits),
    ("One picture, several labels", lambda case: case.conflicts),
    ("Near duplicates", lambda case: case.kind == "near"),
    ("Exact duplicates", lambda case: True),
)


def render_cases(cases: Sequence[Case], store: ImageStore, *, most: int = MOST_CASES) -> Iterator[str]:
    """Yield the cases by importance, each once, `most` of them with pictures."""
    rest, left = list(cases), most
    for title, belongs in _SECTIONS:
        chosen = [case for case in rest if belongs(case)]
        rest = [case for case in rest if not belongs(case)]
        if not chosen:
            continue
        shown, left = chosen[:left], left - min(left, len(chosen))
        yield f"<h3>{title}: {len(chosen):,}</h3>"
        yield '<div class="cases">'
        for case in shown:
            yield from _render_case(case, store)
        yield "</div>"
        if len(shown) < len(chosen):
            yield f"<p>{len(chosen) - len(shown):,} of them are not shown here but listed in audit.json.</p>"


def thumbnail(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a stored image (size, size, channels) as a PNG in a data URI; without three channels, the first."""
    picture = Pillow.fromarray(np.asarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
    if picture.width > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Pillow.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _render_case(case: Case, store: ImageStore) -> Iterator[str]:
    difference = "equal pixels" if case.kind == "exact" else f"difference {case.difference:.4f}"
    patients = {image.patient for image in case.images}
    whose = "" if patients == {""} else ", one patient" if len(patients) == 1 else f", {len(patients)} patients"
    marks = [("error", "reaches the test split")] if case.reaches_test else []
    marks += [("warning", "labels differ")] if case.conflicts else []
    tags = "".join(f'<span class="tag {severity}">{text}</span>' for severity, text in marks)
    yield f'<div class="case"><p>{tags}{difference}, {len(case.images):,} images{whose}</p><div class="images">'
    for image in case.images[:MOST_IMAGES]:
        yield _render_image(image, store)
    yield "</div>"
    if len(case.images) > MOST_IMAGES:
        yield f"<p>and {len(case.images) - MOST_IMAGES:,} more, listed in audit.json</p>"
    yield "</div>"


def _render_image(image: Image, store: ImageStore) -> str:
    facts = (
        image.split or "no split",
        f"patient {image.patient}" if image.patient else "",
        f"frame {image.frame}" if image.frame else "",
    )
    name = escape(image.file)
    return (
        f'<figure><img src="{thumbnail(store.pixels[image.image_id])}" alt="{name}"><figcaption>'
        f"<b>{escape(image.label)}</b><br>{escape(', '.join(filter(None, facts)))}<br><code>{name}</code>"
        "</figcaption></figure>"
    )
