"""Audit the data of a card, and leave the result where people look for it."""

from dataclasses import dataclass
from pathlib import Path

from consilia.audit.document import Audit
from consilia.audit.run import audit
from consilia.config.card import DataCard
from consilia.data.store.prepare import Progress, prepare
from consilia.report.audit_page import write_page

JSON, PAGE = "audit.json", "audit.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFiles:
    """An audit, and where it was written."""

    audit: Audit
    json: Path
    page: Path


def audit_card(
    card: DataCard, *, stores: Path, out: Path | None = None, progress: Progress | None = None
) -> AuditFiles:
    """Prepare the card's data, audit them, and write `audit.json` and `audit.html`.

    Args:
        card: The data set.
        stores: Folder of the image stores.
        out: Folder of the two files; None: `<stores>/audits/<card>-<digest>`.
        progress: Told how many images are decoded.

    Raises:
        DataError: The data cannot be prepared.
    """
    store = prepare(card, root=stores.absolute(), progress=progress)
    found = audit(store, card)
    folder = out or stores / "audits" / f"{card.name}-{store.digest[:16]}"
    found.write(folder / JSON)
    write_page(folder / PAGE, found, store)
    return AuditFiles(audit=found, json=folder / JSON, page=folder / PAGE)
