"""`consilia data`: make the built-in data set, and prepare image stores."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.options import STORES, Card, Settings, Stores

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
    from consilia.data.phantoms import write_phantoms

    write_phantoms(folder, patients=patients, size=size, seed=seed)
    print(f"{folder}: images and metadata.csv. Next: consilia data prepare phantoms --set path={folder}")


@app.command()
def prepare(card: Card, settings: Settings = None, stores: Stores = STORES) -> None:
    """Decode every image of a card once into a store that all trials read.

    Example: consilia data prepare pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    from consilia.cli.show import show_store
    from consilia.data.prepare import prepare as prepare_store
    from consilia.report.console import make_console
    from consilia.report.progress import PrepareProgress
    from consilia.study.plan import read_card

    progress = PrepareProgress(make_console())
    try:
        store = prepare_store(read_card(card, settings=settings or ()), root=stores.absolute(), progress=progress)
    finally:
        progress.close()
    show_store(store)
