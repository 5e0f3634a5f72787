"""What several commands share: arguments, options, and how a process computes beside others."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file; examples/ holds some to copy.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a stored study, its folder, or its file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=5; may be repeated."),
]
CardSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the card, such as path=DIR; may be repeated."),
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
MeasuredCard = Annotated[
    str | None, typer.Argument(metavar="CARD", help="Name of a shipped card, or a file of your own. Or give --study.")
]
TestOf = Annotated[
    str | None, typer.Option("--study", metavar="STUDY", help="Take the locked test of this study, in place of a card.")
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an ensemble.")]
Card = Annotated[str, typer.Argument(metavar="CARD", help="Name of a shipped card, or a file of your own.")]
Device = Annotated[str, typer.Option("--device", help="A torch device such as cpu or cuda:0; auto takes the best.")]
OnUnknownKind = Literal["refuse", "as_displayed"]  # of `predict.images`, which a command may not import up here
UnknownKind = Annotated[
    OnUnknownKind, typer.Option(help="An image of a kind that was not trained on, such as a PNG where it was DICOM.")
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as submit printed it.")]
Address = Annotated[
    str, typer.Option("--address", metavar="URL", help="The cluster's dashboard, such as http://head:8265.")
]

STUDIES = "studies"
STORES = "stores"


def share_cores() -> None:
    """Let torch compute in this process with the cores that a container leaves it, and wait without spinning.

    To be called before torch is imported. By default OpenMP's threads spin while they wait for each other; where other
    processes take turns on the cores, they then burn the time of the thread that they wait for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()


def limit_threads() -> None:
    """Let torch compute in this process with the cores that a container leaves it, or as OMP_NUM_THREADS says.

    Enough where a process trains: small networks train half as fast on idle cores where threads do not spin.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import joblib
        import torch

        from consilia.train.device import set_threads

        set_threads(min(torch.get_num_threads(), joblib.cpu_count()))
