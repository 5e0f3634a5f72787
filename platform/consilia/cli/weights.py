"""`consilia weights`: say which pretrained weights a study needs, and fetch them for places without internet."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Pretrained weights, also for places without internet.", no_args_is_help=True)

Needs = Annotated[
    list[str], typer.Argument(metavar="SPACE...", help="Names or files of search spaces, or study files (.yaml).")
]


@app.command(name="list")
def show(
    needs: Needs,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Folder to look in; default: CONSILIA_WEIGHTS.")
    ] = None,
) -> int:
    """Say which models need weights and which are there; exit code 1 when some are not.

    Example: consilia weights list examples/cxr_views.yaml --weights /data/weights
    """
    from consilia.cli.show import show_weights
    from consilia.study.weights import needed_models, weights_folder

    folder = weights_folder(weights)
    return show_weights(needed_models(needs), folder)


@app.command()
def fetch(
    needs: Needs,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to fill; what it has is kept.")],
) -> None:
    """Fill a folder once where there is internet; carry it to where there is none and name it in CONSILIA_WEIGHTS.

    Example: consilia weights fetch resnet densenet --to /data/weights
    """
    from consilia.study.weights import fetch_weights, needed_models

    for name, file, is_new in fetch_weights(needed_models(needs), to):
        print(f"{'fetched' if is_new else 'kept   '}  {name}: {file}", flush=True)
    print(f"Next: export CONSILIA_WEIGHTS={to.absolute()}")
