"""`consilia data`: make the built-in data set; prepare, audit and preview the images of a card."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.options import STORES, Card, CardSettings, CardStores

app = typer.Typer(help="Make, check and prepare labelled images.", no_args_is_help=True)


@app.command()
def phantoms(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    patients: Annotated[int, typer.Option(min=30, help="Number of patients, with one to four images each.")] = 240,
    size: Annotated[int, typer.Option(min=32, help="Side of the images, in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
) -> None:
    """Write the built-in data set: chest-like radiographs of three classes, drawn from a seed.

    Example: consilia data phantoms ./phantoms
    """
    import consilia

    consilia.write_phantoms(folder, patients=patients, size=size, seed=seed)
    print(f"{folder}: images and metadata.csv. Next: consilia data prepare phantoms --set path={folder}")


@app.command()
def prepare(card: Card, settings: CardSettings = None, stores: CardStores = STORES) -> None:
    """Decode every image of a card once into a store that all trials read, and say in brief what is wrong with it.

    Example: consilia data prepare pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    import consilia
    from consilia.cli.show import prepare_bar, show_store

    chosen = consilia.read_card(card, settings=settings or ())
    with prepare_bar() as progress:
        prepared = consilia.prepare_card(chosen, stores=stores, progress=progress)
    show_store(prepared.store, prepared.audit)


@app.command()
def audit(
    card: Card,
    settings: CardSettings = None,
    stores: CardStores = STORES,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the two files; default: below the stores.")
    ] = None,
) -> int:
    """Look for leaks, duplicates, label conflicts and shortcuts before anything is trained.

    Writes audit.json, and audit.html: one page with a picture of every suspect.

    The exit code is 1 when there is an error among the findings, else 0.

    Example: consilia data audit pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    import consilia
    from consilia.cli.show import prepare_bar, show_audit

    chosen = consilia.read_card(card, settings=settings or ())
    with prepare_bar() as progress:
        files = consilia.audit_card(chosen, stores=stores, out=out, progress=progress)
    show_audit(files)
    return 1 if files.audit.count("error") else 0


@app.command()
def preview(
    card: Card,
    settings: CardSettings = None,
    image: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the image in the store.")] = 0,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="Of the augmentation; a search tries several, 1 is the policy's limit.")
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="The picture; default: below the stores.")
    ] = None,
    stores: CardStores = STORES,
) -> None:
    """Draw one image as 16 draws of its augmentation show it to a network, and say what the card's policy allows.

    Look at it before a search: no draw may show what would have another label.

    Example: consilia data preview pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    import consilia
    from consilia.cli.show import prepare_bar, show_preview

    chosen = consilia.read_card(card, settings=settings or ())
    with prepare_bar() as progress:
        shown = consilia.preview_card(chosen, stores=stores, image=image, strength=strength, out=out, progress=progress)
    show_preview(chosen, shown, strength=strength)
