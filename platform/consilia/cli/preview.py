"""`consilia data preview`: what augmentation makes of an image."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.options import STORES, Card, Settings, Stores


def register(app: typer.Typer) -> None:
    """Add the command to `consilia data`."""
    app.command()(preview)


def preview(
    card: Card,
    settings: Settings = None,
    image: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the image in the store.")] = 0,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="Of the augmentation; a search tries several, 1 is the policy's limit.")
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="The picture; default: below the stores.")
    ] = None,
    stores: Stores = STORES,
) -> None:
    """Draw one image as 16 draws of its augmentation show it to a network, and say what the card's policy allows.

    Look at it before a search: no draw may show what would have another label.

    Example: consilia data preview pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    from rich.table import Table

    from consilia.config.augmentation import POLICIES
    from consilia.report.console import make_console
    from consilia.report.preview import describe_policy
    from consilia.report.progress import PrepareProgress
    from consilia.study.plan import read_card
    from consilia.study.preview import preview_card

    chosen = read_card(card, settings=settings or ())
    console = make_console()
    progress = PrepareProgress(console)
    try:
        shown = preview_card(chosen, stores=stores, image=image, strength=strength, out=out, progress=progress)
    finally:
        progress.close()
    usual = POLICIES[chosen.modality]
    origin = "as usual" if chosen.augmentation == usual else "changed by the card"
    table = Table("may", "within", title=f"Augmentation of {chosen.modality}, {origin}, at strength {strength:g}")
    table.title_justify = "left"
    before = dict(describe_policy(usual, strength))
    for what, limits in describe_policy(chosen.augmentation, strength):
        note = "" if limits == before[what] else f"   (usual: {before[what]})"
        table.add_row(what, limits + note)
    console.print(table)
    console.print(f"image     {shown.file}, {shown.label}\npicture   {shown.path}", soft_wrap=True)
