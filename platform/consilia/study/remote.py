"""A folder at a URI, and the folder on this machine that stands for it."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from consilia.errors import StudyError
from consilia.files import write_atomically

Stamp = tuple[int, int]
"""What tells one version of an object from the next: its size in bytes, and when the store took it, ns."""

CACHE = "CONSILIA_CACHE"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has lost the second slash; one letter is a drive
_NOT_ATOMIC = ("local", "hdfs")  # of pyarrow's file systems: an object that is being written can be seen
_PIECE = 2**24  # bytes copied at a time


class RemoteError(StudyError):
    """What lies at a URI cannot be read or written; says what to do."""


class Remote:
    """The objects below a URI, by their names relative to it. Every method may raise RemoteError.

    Args:
        filesystem: pyarrow's.
        base: Path in it.
        shown: The URI for people, without secrets.
    """

    def __init__(self, filesystem: Any, base: str, shown: str) -> None:
        self._filesystem = filesystem
        self._base = base.rstrip("/")
        self.shown = shown

    def child(self, *names: str) -> Self:
        """Return a folder below this one."""
        return type(self)(self._filesystem, "/".join((self._base, *names)), "/".join((self.shown, *names)))

    def check(self) -> None:
        """See that the bucket is there: one that is missing lists as if it were empty."""
        bucket = self._base.split("/")[0]
        if bucket and self._stat(bucket) is None:
            raise RemoteError(f"{self.shown}: there is no bucket {bucket!r}. Make it, or correct its name.")

    def list(self) -> dict[str, Stamp]:
        """Return every object below, but for temporary ones: those with a part that starts with a dot."""
        from pyarrow.fs import FileSelector, FileType

        with self._explained():
            infos = self._filesystem.get_file_info(FileSelector(self._base, recursive=True, allow_not_found=True))
        found = {
            info.path.removeprefix(self._base).lstrip("/"): (info.size, info.mtime_ns or 0)
            for info in infos
            if info.type == FileType.File
        }
        return {name: stamp for name, stamp in found.items() if not is_hidden(name)}

    def stamp(self, name: str) -> Stamp | None:
        """Return the version of one object; None where it is missing."""
        info = self._stat(f"{self._base}/{name}")
        return None if info is None else (info.size or 0, info.mtime_ns or 0)

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None where it is missing."""
        try:
            with self._explained(), self._filesystem.open_input_stream(f"{self._base}/{name}") as source:
                content: bytes = source.read()
        except FileNotFoundError:
            return None
        return content

    def download(self, name: str, target: Path) -> bool:
        """Write an object to a file, in one step; False where it is missing."""

        def fill(temporary: Path) -> None:
            with (
                self._explained(),
                self._filesystem.open_input_stream(f"{self._base}/{name}") as source,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(source, file, _PIECE)

        try:
            write_atomically(target, fill)
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, content: bytes | Path) -> None:
        """Write an object in one step: it is seen as it was before or as it is after.

        Args:
            name: Of the object.
            content: Its bytes, or the file that holds them.

        Raises:
            FileNotFoundError: The file is gone.
        """
        path = f"{self._base}/{name}"
        if self._filesystem.type_name in _NOT_ATOMIC:
            folder, _, last = path.rpartition("/")
            with self._explained():
                self._filesystem.create_dir(folder, recursive=True)
            self._fill(f"{folder}/.{last}", content)
            with self._explained():
                self._filesystem.move(f"{folder}/.{last}", path)
        else:
            self._fill(path, content)

    def delete(self, name: str) -> None:
        """Delete an object; one that is missing does no harm."""
        try:
            with self._explained():
                self._filesystem.delete_file(f"{self._base}/{name}")
        except FileNotFoundError:
            pass

    def _fill(self, path: str, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            with self._explained(), self._filesystem.open_output_stream(path) as target:
                target.write(content)
            return
        with content.open("rb") as file, self._explained():
            target = self._filesystem.open_output_stream(path)
            try:
                shutil.copyfileobj(file, target, _PIECE)
            except BaseException:  # closing makes an object of what was written, and nothing else ends it
                target.close()
                self._filesystem.delete_file(path)
                raise
            target.close()

    def _stat(self, path: str) -> Any:
        from pyarrow.fs import FileType

        with self._explained():
            (info,) = self._filesystem.get_file_info([path])
        return None if info.type == FileType.NotFound else info

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own are among them
            raise RemoteError(f"{self.shown}: {_explain(str(error))}") from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where all studies, or all stores, lie."""

    local: Path  # on this machine; of a URI, in the cache
    remote: Remote | None  # None: it lies on a disk alone
    _uri: str = ""

    def sibling(self, name: str) -> "Place":
        """Return the folder beside this one."""
        return open_place(_beside(self._uri, name) if self._uri else self.local.parent / name)


def open_place(place: str | Path) -> Place:
    """Return a folder by its path or its URI; nothing is asked of the network yet.

    Raises:
        RemoteError: It is not a URI of pyarrow.fs that names a folder in a bucket.
    """
    text = str(place)
    if not _URI.match(text):
        return Place(Path(place).absolute(), None)
    if isinstance(place, Path):
        raise RemoteError(f"A URI must be given as text, but this one is a Path, which drops a slash: {text}.")
    uri = urlsplit(text)
    shown = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}".rstrip("/")
    parent, _, name = shown.rpartition("/")
    if not name or parent.endswith("/"):
        raise RemoteError(f"{shown} must name a folder in a bucket, such as {shown or 's3://bucket'}/studies.")
    filesystem, base = _open(text, shown)
    return Place(_cache() / _folder_of(parent, _beside(text, "")) / name, Remote(filesystem, base, shown), text)


def is_hidden(name: str) -> bool:
    """Say whether a file is a lock, or was not written to its end: a part of its name starts with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _open(uri: str, shown: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    if uri.startswith("s3:"):  # one request for a small object, and none before its content is known
        uri += f"{'&' if '?' in uri else '?'}allow_delayed_open=true"
    try:
        filesystem, base = FileSystem.from_uri(uri)
    except OSError as error:  # the region of a bucket is asked for, where the URI does not say it
        raise RemoteError(f"{shown}: {_explain(str(error))}") from error
    except ValueError as error:
        raise RemoteError(
            f"{shown} must be a URI such as s3://bucket/studies, gs://bucket/studies or file:///folder/studies, but: "
            f"{error}."
        ) from error
    return filesystem, str(base)


def _cache() -> Path:
    given = os.environ.get(CACHE)
    beneath = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given).absolute() if given else Path(beneath) / "consilia"


def _folder_of(shown: str, uri: str) -> str:
    """Return a name that people recognise and no other URI has."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", shown).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def _beside(uri: str, name: str) -> str:
    path, mark, query = uri.partition("?")
    return f"{path.rstrip('/').rpartition('/')[0]}/{name}{mark}{query}"


_EXPLAINED = {
    "NO_SUCH_BUCKET|Bucket .* not found": "there is no such bucket. Make it, or correct its name.",
    r"ACCESS_DENIED|HTTP status 403|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID": (
        "access is denied. Give credentials that may list, read, write and delete there: of S3 AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of this machine."
    ),
    r"EXPIRED_TOKEN|ExpiredToken": "the credentials have expired. Renew them.",
    r"NETWORK_CONNECTION|curlCode|Could not resolve|TIMEOUT": (
        "the store cannot be reached. Check the network, and endpoint_override, scheme and region in the URI."
    ),
}


def _explain(text: str) -> str:
    """Say in a line what is wrong and what to do."""
    for pattern, meaning in _EXPLAINED.items():
        if re.search(pattern, text):
            return meaning
    return text.splitlines()[0] if text else "cannot be read or written, and does not say why."
