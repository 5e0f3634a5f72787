"""`consilia serve`: a page and an API to try an ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from consilia.cli.ensemble import MaxMembers, Precision, Prevalence, load_as_asked
from consilia.cli.options import Bundle, Device, UnknownKind, share_cores


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(serve)


def serve(
    bundle: Bundle,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Holds the token that requests must bring; made where it is missing. Or set CONSILIA_SERVE_TOKEN. "
            "Needed beyond loopback only: ~/.consilia/serve_token.",
        ),
    ] = None,
    max_images: Annotated[int, typer.Option(metavar="N", min=1, help="Images of a request.")] = 64,
    max_mib: Annotated[int, typer.Option(metavar="N", min=1, help="Size of a request, MiB.")] = 256,
    max_waiting: Annotated[int, typer.Option(metavar="N", min=1, help="Images of all requests at once.")] = 512,
    device: Device = "auto",
    on_unknown_kind: UnknownKind = "refuse",
    prevalence: Prevalence = None,
    max_members: MaxMembers = None,
    precision: Precision = "auto",
) -> None:
    r"""Serve an ensemble: a page to drop images on, and an API. It is not a medical device.

    The page is for a browser; POST /v1/predict and /v1/explain take files, GET /v1/model tells the card, /metrics what
    Prometheus reads, and /openapi.json describes them all. Needs pip install 'consilia\[serve]'.

    Example: consilia serve studies/demo/ensembles/greedy_calibrated --port 8000
    """
    share_cores()
    import consilia

    try:
        from consilia.serve.server import Place
        from consilia.serve.server import serve as serve_bundle
        from consilia.serve.uploads import Limits
    except ModuleNotFoundError as error:
        raise consilia.UserError(
            f"consilia serve needs {error.name}, which is not installed: pip install 'consilia[serve]'"
        ) from None
    serve_bundle(
        bundle,
        lambda: load_as_asked(bundle, device, precision, prevalence, max_members),
        Place(host=host, port=port, token_file=token_file),
        limits=Limits(images=max_images, bytes=max_mib * 2**20, waiting=max_waiting),
        on_unknown_kind=on_unknown_kind,
    )
