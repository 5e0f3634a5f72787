"""Who may ask: people at this machine, or whoever knows the token."""

import ipaddress
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from consilia.errors import UserError

TOKEN_VARIABLE = "CONSILIA_SERVE_TOKEN"
TOKEN_FILE = Path("~/.consilia/serve_token")  # of a token that is made here
PUBLIC = ("/", "/page.css", "/page.js", "/healthz")  # no token: they say nothing of the ensemble or of any image
_SHORTEST = 16  # characters of a token
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request must bring."""

    token: str | None  # None: none, but the request must be addressed to this machine by a loopback name
    source: str = ""  # where the token stands, for people; never the token


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_access(host: str, token_file: Path | None) -> Access:
    """Return what requests to `host` must bring.

    The token is the content of `token_file`, or of the variable `CONSILIA_SERVE_TOKEN`. Without either there is none on
    loopback, and any other address takes the one in `TOKEN_FILE`. A file that is not there is made, with a new token.

    Raises:
        UserError: Both are given, the token is too short, or others may read its file.
    """
    from_variable = os.environ.get(TOKEN_VARIABLE)
    if from_variable is not None and token_file is not None:
        raise UserError(f"Give the token by --token-file or by {TOKEN_VARIABLE}, and leave the other out.")
    if from_variable is not None:
        return Access(token=_checked(from_variable, TOKEN_VARIABLE), source=f"the variable {TOKEN_VARIABLE}")
    if token_file is None and is_loopback(host):
        return Access(token=None)
    path = (token_file or TOKEN_FILE).expanduser()
    return Access(token=_read_or_make(path), source=str(path))


class Guard:
    """ASGI middleware that lets in only what `Access` allows, and writes from no other site's page."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Stand before `app`."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 400, 401 or 403 and a sentence, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif refusal := self._refuse(scope, Headers(scope=scope)):
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        # A site whose name is made to mean 127.0.0.1 (DNS rebinding) would be read by its own page; its name gives it
        # away.
        if self._access.token is None and _hostname(host) not in _LOOPBACK_NAMES:
            return _answer(400, "This page is for this machine alone: address it as localhost or 127.0.0.1.")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return _answer(403, f"A page of {origin} may not write here: only this server's own page may.")
        if self._access.token is None or scope["path"] in PUBLIC or self._knows_token(headers):
            return None
        return _answer(
            401, "A token is needed: send it as `Authorization: Bearer TOKEN`.", **{"WWW-Authenticate": "Bearer"}
        )

    def _knows_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        expected = (self._access.token or "").encode()
        return kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), expected)


def _answer(status: int, error: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": error}, status, headers=headers)


def _hostname(host: str) -> str:
    """Return the name in a Host header; "" for one that is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _read_or_make(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    except FileExistsError:
        pass  # it is read, whether it was there before or another process has just made it
    if not path.is_file() or path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"{path} must be a file that nobody but you may read, since it holds a token: chmod 600 {path}")
    return _checked(path.read_text(encoding="utf-8"), str(path))


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"The token in {source} must have at least {_SHORTEST} characters of ASCII, without spaces.")
    return token
