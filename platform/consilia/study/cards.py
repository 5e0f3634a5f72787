"""A card's data before anything is trained: prepared, audited, previewed."""

from dataclasses import dataclass
from pathlib import Path

from consilia.audit.document import Audit
from consilia.audit.run import audit
from consilia.config.card import DataCard
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import Progress
from consilia.errors import PlanError
from consilia.files import write_atomically
from consilia.report.audit_page import write_page
from consilia.report.sheets import draw_views, make_sheet
from consilia.study.remote import open_place
from consilia.study.shared_stores import prepare_at

JSON, PAGE = "audit.json", "audit.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCard:
    """A prepared data set, and in brief what is wrong with it."""

    store: ImageStore
    audit: Audit  # without the search for shortcuts, which takes longest


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFiles:
    """An audit, and where it was written."""

    audit: Audit
    json: Path
    page: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A sheet, and what it shows."""

    path: Path  # the PNG
    file: str  # the image's own
    label: str  # name of its class


def prepare_card(card: DataCard, *, stores: str | Path = "stores", progress: Progress | None = None) -> PreparedCard:
    """Decode every image of the card once into a store that all trials read, and audit it in brief.

    Args:
        card: The data set.
        stores: Folder of the image stores, or its URI.
        progress: Told how many images are decoded, of how many.

    Raises:
        DataError: The data cannot be prepared.
    """
    store = prepare_at(card, stores, progress=progress)
    return PreparedCard(store=store, audit=audit(store, card, shortcuts=False))


def audit_card(
    card: DataCard, *, stores: str | Path = "stores", out: str | Path | None = None, progress: Progress | None = None
) -> AuditFiles:
    """Prepare the card's data, audit them, and write `audit.json` and `audit.html`.

    Args:
        card: The data set.
        stores: Folder of the image stores, or its URI.
        out: Folder of the two files; None: `<stores>/audits/<card>-<digest>`.
        progress: Told how many images are decoded.

    Raises:
        DataError: The data cannot be prepared.
    """
    store = prepare_at(card, stores, progress=progress)
    found = audit(store, card)
    folder = Path(out or open_place(stores).local / "audits" / f"{card.name}-{store.digest[:16]}")
    found.write(folder / JSON)
    write_page(folder / PAGE, found, store)
    return AuditFiles(audit=found, json=folder / JSON, page=folder / PAGE)


def preview_card(
    card: DataCard,
    *,
    stores: str | Path = "stores",
    image: int = 0,
    strength: float = 1.0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Prepare the card's data and write one image under many draws as a PNG.

    Args:
        card: The data set; its policy decides what is done.
        stores: Folder of the image stores, or its URI.
        image: Row in the store, from 0.
        strength: Of the augmentation, 0 ... 1; 1 is the whole of what the policy allows.
        out: The PNG; None: `<stores>/previews/<card>-<digest>-<image>.png`.
        progress: Told how many images are decoded.

    Raises:
        PlanError: The store has no such image, or `out` is not named .png.
        DataError: The data cannot be prepared.
    """
    if out is not None and Path(out).suffix.lower() != ".png":
        raise PlanError(f"The preview is a PNG: --out must end in .png, but is {out}.")
    store = prepare_at(card, stores, progress=progress)
    if not 0 <= image < len(store):
        raise PlanError(f"Images of card {card.name!r} are numbered 0 ... {len(store) - 1}, but --image is {image}.")
    views = draw_views(store.pixels[image], policy=card.augmentation, strength=strength)
    path = Path(out or open_place(stores).local / "previews" / f"{card.name}-{store.digest[:16]}-{image}.png")
    write_atomically(path, make_sheet(views).save)
    row = store.index.iloc[image]
    return Preview(path=path, file=str(row["file"]), label=store.classes[int(row["label"])])
