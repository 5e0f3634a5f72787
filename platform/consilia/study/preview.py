"""Show what augmentation does to an image of a card, before a network is trained on it."""

from dataclasses import dataclass
from pathlib import Path

from consilia.config.card import DataCard
from consilia.data.store.prepare import Progress, prepare
from consilia.errors import PlanError
from consilia.files import write_atomically
from consilia.report.preview import draw_views, make_sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A sheet, and what it shows."""

    path: Path  # the PNG
    file: str  # the image's own
    label: str  # name of its class


def preview_card(
    card: DataCard,
    *,
    stores: Path,
    image: int,
    strength: float,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Prepare the card's data and write one image under many draws as a PNG.

    Args:
        card: The data set; its policy decides what is done.
        stores: Folder of the image stores.
        image: Row in the store, from 0.
        strength: Of the augmentation, 0 ... 1; 1 is the whole of what the policy allows.
        out: The PNG; None: `<stores>/previews/<card>-<digest>-<image>.png`.
        progress: Told how many images are decoded.

    Raises:
        PlanError: The store has no such image, or `out` is not named .png.
        DataError: The data cannot be prepared.
    """
    if out is not None and out.suffix.lower() != ".png":
        raise PlanError(f"The preview is a PNG: --out must end in .png, but is {out}.")
    store = prepare(card, root=stores.absolute(), progress=progress)
    if not 0 <= image < len(store):
        raise PlanError(f"Images of card {card.name!r} are numbered 0 ... {len(store) - 1}, but --image is {image}.")
    views = draw_views(store.pixels[image], policy=card.augmentation, strength=strength)
    path = out or stores / "previews" / f"{card.name}-{store.digest[:16]}-{image}.png"
    write_atomically(path, make_sheet(views).save)
    row = store.index.iloc[image]
    return Preview(path=path, file=str(row["file"]), label=store.classes[int(row["label"])])
