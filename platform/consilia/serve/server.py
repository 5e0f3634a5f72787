"""`consilia serve`: one process, one socket, one ensemble, until Ctrl-C."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from consilia.bundle.reading import read_digest
from consilia.errors import UserError
from consilia.predict.images import OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor
from consilia.serve.access import Access, choose_access, is_loopback
from consilia.serve.app import make_app
from consilia.serve.routes import Service
from consilia.serve.uploads import Limits

_PATIENCE = 1  # seconds that requests under way are given at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen, and for whom."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    token_file: Path | None = None  # as of `choose_access`


def serve(
    bundle: Path,
    load: Callable[[], EnsemblePredictor],
    place: Place,
    *,
    limits: Limits,
    on_unknown_kind: OnUnknownKind = "refuse",
) -> None:
    """Serve an ensemble until Ctrl-C or SIGTERM; print where it is, once it answers.

    Ctrl-C ends the process with the exit code 130.

    Args:
        bundle: Its folder.
        load: Returns its predictor; called once the address is known to be free.
        place: Where to listen.
        limits: What is refused.
        on_unknown_kind: As of `EnsemblePredictor.predict`.

    Raises:
        UserError: The address cannot be listened on, or the token's file cannot be used.
    """
    access = choose_access(place.host, place.token_file)
    with _bind(place) as listener:
        predictor = load()
        app = make_app(
            predictor, digest=read_digest(bundle), access=access, limits=limits, on_unknown_kind=on_unknown_kind
        )
        port = listener.getsockname()[1]
        # Its own records would tell of every request; what fails still reaches standard error.
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_PATIENCE
        )
        server = _Server(config, app, lambda: print(_welcome(predictor, place.host, port, access), flush=True))
        try:
            server.run([listener])
        except KeyboardInterrupt:
            _leave()


class _Server(uvicorn.Server):
    """Says when it answers, and lets nobody wait for a prediction once it is to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._served, self._on_start = app, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        service: Service = self._served.state.service
        self._loop.call_soon_threadsafe(service.batcher.stop)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # uploads that are broken off now are no news
        super().handle_exit(sig, frame)


def _bind(place: Place) -> socket.socket:
    """Return a socket on the address; nobody is answered yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host must be an address of this machine, but is {place.host}: {error.strerror}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(
            f"{place.host}, port {place.port} cannot be listened on: {error.strerror}. Choose another: --port."
        ) from None
    return listener


def _welcome(predictor: EnsemblePredictor, host: str, port: int, access: Access) -> str:
    shown = f"[{host}]" if ":" in host else host
    lines = [f"{predictor.document.name} is served at http://{shown}:{port} until Ctrl-C. It is not a medical device."]
    if access.token is not None:
        lines.append(f"The token that it asks for stands in {access.source}.")
    if not is_loopback(host):
        lines.append("Images and token travel unencrypted: put a proxy with TLS before it, or use a tunnel.")
    return "\n".join(lines)


def _leave() -> NoReturn:
    """End the process. Everything is closed; Python would wait for a batch, and take seconds to take torch apart."""
    print("consilia: Stopped by Ctrl-C.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)
