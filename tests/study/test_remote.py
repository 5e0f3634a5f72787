"""URIs: what they stand for on this machine, and what a person reads who gave a wrong one."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from consilia.cli.app import run
from consilia.study.remote import RemoteError, open_place
from s3_server import ENVIRONMENT, S3, serve_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSILIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_stores_lie_beside_the_studies_here_and_there(cache):
    studies = open_place("s3://bucket/lungs/studies?region=eu-west-1")
    stores = studies.sibling("stores")
    assert (studies.local.name, stores.local) == ("studies", studies.local.parent / "stores")
    assert studies.local.is_relative_to(cache)
    assert studies.local.parent.name.startswith("s3-bucket-lungs-")
    assert stores.remote.shown == "s3://bucket/lungs/stores"
    assert open_place(Path("here/studies")).sibling("stores").local == Path("here/stores").absolute()


@pytest.mark.parametrize(
    "other", ["s3://bucket/lungs/studies?region=eu-west-2", "s3://bucket/lungs-/studies?region=eu-west-1"]
)
def test_two_uris_never_share_a_folder(cache, other):
    assert open_place("s3://bucket/lungs/studies?region=eu-west-1").local != open_place(other).local


def test_a_slash_at_the_end_makes_no_other_place(cache):
    assert open_place("file:///bucket/studies/").local == open_place("file:///bucket/studies").local


def test_secrets_in_a_uri_are_shown_nowhere(cache):
    place = open_place("s3://key:hush@bucket/studies?endpoint_override=127.0.0.1:1")
    assert place.remote.shown == "s3://bucket/studies"
    assert "hush" not in str(place.local)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://bucket", "must name a folder in a bucket, such as s3://bucket/studies"),
        ("s4://bucket/studies", "must be a URI such as s3://bucket/studies"),
        ("s3://bucket/studies?colour=red", "colour"),
        (Path("s3://bucket/studies"), "must be given as text"),
    ],
)
def test_what_is_no_place_is_refused_with_what_is(cache, uri, says):
    with pytest.raises(RemoteError, match=says):
        open_place(uri)


def test_the_cache_lies_where_the_platform_puts_caches_unless_a_variable_says_where(monkeypatch, tmp_path):
    monkeypatch.delenv("CONSILIA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_place("file:///bucket/studies").local.is_relative_to(tmp_path / "consilia")


def test_a_folder_by_its_uri_is_read_and_written_in_whole_files(cache, tmp_path):
    remote = open_place((tmp_path / "there" / "studies").as_uri()).remote
    assert remote.list() == {}
    remote.write("a/b.json", b"one")
    (tmp_path / "two").write_bytes(b"two")
    remote.write("a/b.json", tmp_path / "two")
    assert remote.read("a/b.json") == b"two"
    assert [(name, size) for name, (size, _) in remote.list().items()] == [("a/b.json", 3)]
    assert remote.download("a/b.json", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"two"
    remote.delete("a/b.json")
    remote.delete("a/b.json")
    assert (remote.list(), remote.read("a/b.json"), remote.stamp("a/b.json")) == ({}, None, None)
    assert not remote.download("a/b.json", tmp_path / "back")


def test_an_object_of_s3_is_its_file_however_large(s3, cache, tmp_path):
    remote = open_place(s3.uri("ours/large/studies")).remote
    content = bytes(range(256)) * 2**17  # 32 MB: several parts
    (tmp_path / "large").write_bytes(content)
    for given in (tmp_path / "large", b"small", b""):
        remote.write("own/x", given)
        expected = content if isinstance(given, Path) else given
        assert remote.read("own/x") == expected
        assert remote.stamp("own/x")[0] == len(expected)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers as S3 does where credentials are missing or wrong."""

    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 # the names that the server calls

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[S3]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield S3(f"127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture
def study(tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "study.yaml"
    data = {"card": "phantoms", "path": str(phantoms), "size": 32}
    path.write_text(yaml.safe_dump({"name": "mine", "data": data, "spaces": ["tiny"]}))
    return path


def fails(study: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `consilia search` says of a URI that it cannot use, at once and in a line."""
    assert run(["search", str(study), "--studies", uri]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("consilia: s3://")
    assert len(printed.splitlines()) == 1
    print(printed)
    return printed


def test_a_bucket_that_does_not_exist_is_named(s3, study, cache, capsys):
    assert "there is no bucket 'theirs'" in fails(study, s3.uri("theirs/studies"), capsys)


def test_an_endpoint_that_does_not_answer_is_said_to_be_so(study, cache, capsys):
    printed = fails(study, S3("127.0.0.1:1").uri("ours/studies"), capsys)
    assert "s3://ours/studies/mine: the store cannot be reached. Check the network, and endpoint_override" in printed


def test_missing_or_wrong_credentials_are_said_to_be_so(refusing, study, cache, capsys):
    printed = fails(study, refusing.uri("ours/studies"), capsys)
    assert "access is denied. Give credentials that may list, read, write and delete there" in printed


def test_reading_a_study_that_is_not_there_names_those_that_are(s3, cache, capsys):
    for name in ("old", "new"):
        open_place(s3.uri("ours/named/studies")).remote.write(f"{name}/study.yaml", b"name: x")
    assert run(["trials", "nwe", "--studies", s3.uri("ours/named/studies")]) == 2
    assert "There is no study 'nwe' in s3://ours/named/studies. Studies there: new, old." in capsys.readouterr().err
