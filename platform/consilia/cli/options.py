"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file; examples/ holds some to copy.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a stored study, its folder, or its file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=5; may be repeated."),
]
Studies = Annotated[
    str, typer.Option("--studies", metavar="DIR", help="Folder of the studies, or a URI such as s3://bucket/studies.")
]
Stores = Annotated[
    str | None,
    typer.Option(
        "--stores",
        metavar="DIR",
        help="Folder of the prepared image stores, or a URI; default: stores, beside the studies.",
    ),
]
CardStores = Annotated[str, typer.Option("--stores", metavar="DIR", help="Folder of the image stores, or a URI.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an ensemble.")]
Card = Annotated[str, typer.Argument(metavar="CARD", help="Name of a shipped card, or a file of your own.")]
Device = Annotated[str, typer.Option("--device", help="A torch device such as cpu or cuda:0; auto takes the best.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as submit printed it.")]
Address = Annotated[
    str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, such as http://head:8265.")
]

STUDIES = "studies"
STORES = "stores"
