from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import consilia
from consilia.bundle.reading import read_digest
from consilia.serve.access import TOKEN_VARIABLE, Access
from consilia.serve.app import make_app
from serve_process import ServerProcess


@pytest.fixture(autouse=True)
def computes_with_one_thread(one_thread):
    """Numbers are compared bit for bit."""


@pytest.fixture(autouse=True)
def has_no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def predictor(trained, one_thread):
    return consilia.load(trained.bundle, device="cpu")


@pytest.fixture
def asked(predictor, trained):
    """Opens a client of an application that is made with other settings than the usual ones."""

    @contextmanager
    def opened(of=predictor, access=Access(token=None), **settings) -> Iterator[TestClient]:  # noqa: B008
        app = make_app(of, digest=read_digest(trained.bundle), access=access, **settings)
        with TestClient(app, base_url="http://localhost:8000") as client:
            yield client

    return opened


@pytest.fixture
def client(asked):
    with asked() as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Three PNG files."""
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "c")]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def sent():
    """Makes the multipart body of files."""

    def make(*paths: Path, field: str = "files"):
        return [(field, (path.name, path.read_bytes())) for path in paths]

    return make


@pytest.fixture(scope="session")
def server(trained) -> Iterator[ServerProcess]:
    started = ServerProcess(trained.bundle)
    yield started
    started.end()
