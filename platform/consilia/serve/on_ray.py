"""The same application under Ray Serve, which keeps replicas of it on a cluster behind one address.

`cluster/serve/serve.yaml` is to be copied: it names `build` here, and its `args` are `Arguments`.
"""

from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from consilia.bundle.reading import read_digest
from consilia.config.frozen import Frozen
from consilia.errors import UserError
from consilia.predict.images import OnUnknownKind
from consilia.predict.loading import load_predictor
from consilia.predict.precision import AskedPrecision
from consilia.serve.access import choose_access
from consilia.serve.app import make_app
from consilia.serve.uploads import Limits

_ADDRESSED = "localhost"  # what a request must be addressed to where there is no token


class Arguments(Frozen):
    """What an application is told in `serve.yaml`; files lie on every node that may hold a replica."""

    bundle: str  # folder of the ensemble
    token_file: str | None = None  # holds the token; left out: requests must be addressed to localhost
    device: str = "auto"  # a torch device; auto takes the best that the replica has
    precision: AskedPrecision = "auto"
    on_unknown_kind: OnUnknownKind = "refuse"


class Ensemble:
    """One replica: an ensemble in memory, and the application around it."""

    def __init__(self, arguments: Arguments) -> None:
        """Load and check the bundle.

        Raises:
            UserError: The token's file is not on this node: a token that is made here would be this replica's alone.
            BundleError: As of `load_predictor`.
        """
        token_file = None if arguments.token_file is None else Path(arguments.token_file)
        if token_file is not None and not token_file.is_file():
            raise UserError(f"{token_file} must hold the token on every node of the cluster, but is not there.")
        access = choose_access(_ADDRESSED, token_file)
        predictor = load_predictor(arguments.bundle, device=arguments.device, precision=arguments.precision)
        self._app = make_app(
            predictor,
            digest=read_digest(Path(arguments.bundle)),
            access=access,
            limits=Limits(),
            on_unknown_kind=arguments.on_unknown_kind,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:  # the name that Ray Serve asks for
        return self._app


def build(arguments: Arguments) -> Application:
    """Return the application of an ensemble, as `import_path` of serve.yaml names it."""
    deployment: serve.Deployment = serve.deployment(name=Ensemble.__name__)(serve.ingress()(Ensemble))
    return deployment.bind(arguments)
