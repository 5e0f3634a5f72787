"""Every failure is JSON with a sentence: {"error": "..."}."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from consilia.errors import ConsiliaError
from consilia.serve.answers import Failure

FAILURES: dict[int | str, dict[str, Any]] = {
    413: {"model": Failure, "description": "Too many bytes or images"},
    422: {"model": Failure, "description": "Not a multipart body with a file, or a value that cannot be"},
    503: {"model": Failure, "description": "Too many images wait; see Retry-After"},
}
"""What OpenAPI says of them."""


def tell_failures(app: FastAPI) -> None:
    """Let the application answer every error with a sentence."""
    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)


async def _refused(request: Request, error: Any) -> Response:
    detail = error.detail if error.status_code != 404 else f"There is nothing at {request.url.path}."
    return JSONResponse({"error": detail}, error.status_code, headers=error.headers)


async def _wrong_value(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}."}, 422)


async def _own(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Keep the error's text, which may name files, on the server's side; the server prints it."""
    return JSONResponse({"error": "The server failed at this request; its terminal says why."}, 500)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client has gone, and nobody reads it


_ANSWERS = {
    HTTPException: _refused,
    RequestValidationError: _wrong_value,
    ConsiliaError: _own,
    ClientDisconnect: _nobody,
    Exception: _unforeseen,
}
