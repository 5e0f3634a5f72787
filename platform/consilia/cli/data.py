"""`consilia data`: make the built-in data set, and prepare image stores."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli import preview
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
    """Decode every image of a card once into a store that all trials read, and say in brief what is wrong with it.

    Example: consilia data prepare pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    from consilia.audit.run import audit as audit_store
    from consilia.cli.show import show_store
    from consilia.data.store.prepare import prepare as prepare_store
    from consilia.report.console import make_console
    from consilia.report.progress import PrepareProgress
    from consilia.study.plan import read_card

    chosen = read_card(card, settings=settings or ())
    progress = PrepareProgress(make_console())
    try:
        store = prepare_store(chosen, root=stores.absolute(), progress=progress)
    finally:
        progress.close()
    show_store(store, audit_store(store, chosen, shortcuts=False))


@app.command()
def audit(
    card: Card,
    settings: Settings = None,
    stores: Stores = STORES,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the two files; default: below the stores.")
    ] = None,
) -> int:
    """Look for leaks, duplicates, label conflicts and shortcuts before anything is trained.

    Writes audit.json, and audit.html: one page with a picture of every suspect.

    The exit code is 1 when there is an error among the findings, else 0.

    Example: consilia data audit pneumoniamnist --set path=pneumoniamnist_28.npz
    """
    from consilia.cli.show import show_audit
    from consilia.report.console import make_console
    from consilia.report.progress import PrepareProgress
    from consilia.study.audit import audit_card
    from consilia.study.plan import read_card

    progress = PrepareProgress(make_console())
    try:
        files = audit_card(read_card(card, settings=settings or ()), stores=stores, out=out, progress=progress)
    finally:
        progress.close()
    show_audit(files)
    return 1 if files.audit.count("error") else 0


preview.register(app)
