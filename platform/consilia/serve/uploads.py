"""What a request sends: files within limits, which lie on disk only while they are read."""

import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from uuid import uuid4

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from consilia.config.reading import Reading
from consilia.errors import UserError
from consilia.predict.images import split_frames

_DICOM_SUFFIXES = (".dcm", ".dicom")  # all that the reader of files asks a name for
_MOST_FIELDS, _LONGEST_FIELD = 8, 4096  # beside the files: how many, and bytes of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server takes; an image is a file, or a frame of one where each is predicted by itself."""

    images: int = 64  # a request
    bytes: int = 256 * 2**20  # a request
    waiting: int = 512  # images of all requests that have no answer yet

    def __post_init__(self) -> None:
        """Refuse limits under which a request that is allowed could never be answered.

        Raises:
            UserError: Fewer images may wait than a request may have.
        """
        if self.waiting < self.images:
            raise UserError(
                f"At least {self.images} images must be allowed to wait, as many as a request may have, but only "
                f"{self.waiting} are."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a request sends."""

    files: tuple[UploadFile, ...]  # at least one, each with a name
    fields: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file of a request, while it lies on disk."""

    name: str  # that the client gave it
    path: Path  # its bytes
    n_images: int

    def in_words(self, error: Exception) -> str:
        """Return an error's message with the client's name of the file."""
        return str(error).replace(str(self.path), self.name)


@asynccontextmanager
async def receive(request: Request, limits: Limits) -> AsyncIterator[Form]:
    """Read a multipart request, whose files are gone at the end.

    Raises:
        HTTPException: 413: the body or the number of files is beyond its limit; 422: it is not multipart, or has no
            file.
    """
    form = await _parse(request, limits)
    try:
        parts = form.multi_items()
        # A browser sends a file without a name where none was chosen.
        files = tuple(each for _, each in parts if isinstance(each, UploadFile) and each.filename)
        if not files:
            raise HTTPException(422, "The request has no file: curl -F files=@image.png URL")
        yield Form(files=files, fields={name: each for name, each in parts if isinstance(each, str)})
    finally:
        await form.close()


@contextmanager
def on_disk(files: Sequence[UploadFile], folder: Path, reading: Reading, limits: Limits) -> Iterator[list[Upload]]:
    """Write files for readers that take paths, and delete them at the end.

    Args:
        files: Of a request.
        folder: For the files; names in it are never the client's.
        reading: Of the ensemble, which says whether each frame is an image.
        limits: Of a request.

    Raises:
        HTTPException: 413: the files have more images than a request may have.
    """
    paths = []
    try:
        uploads = []
        for file in files:
            name = file.filename or ""
            suffix = PurePath(name).suffix.lower()
            paths.append(folder / f"{uuid4().hex}{suffix if suffix in _DICOM_SUFFIXES else ''}")
            with paths[-1].open("xb") as stored:
                shutil.copyfileobj(file.file, stored)
            n_images = sum(1 for _ in split_frames([(name, paths[-1])], reading))
            uploads.append(Upload(name=name, path=paths[-1], n_images=n_images))
        if (n_images := sum(upload.n_images for upload in uploads)) > limits.images:
            raise _too_many(limits, f"these files have {n_images}")
        yield uploads
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


async def _parse(request: Request, limits: Limits) -> FormData:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(422, "Send files as multipart/form-data: curl -F files=@image.png URL")
    if request.headers.get("content-length", "").isdigit():
        _check_size(int(request.headers["content-length"]), limits)
    parser = MultiPartParser(
        request.headers,
        _counted(request, limits),
        max_files=limits.images,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits, "there are more files") from None
        raise HTTPException(422, f"The multipart body cannot be read: {error.message}") from None


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """Yield the body's chunks while they are within the limit, whatever its header promises."""
    n_bytes = 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        _check_size(n_bytes, limits)
        yield chunk


def _check_size(n_bytes: int, limits: Limits) -> None:
    if n_bytes > limits.bytes:
        raise HTTPException(413, f"A request may have {limits.bytes:,} bytes at most. Send fewer images at a time.")


def _too_many(limits: Limits, found: str) -> HTTPException:
    return HTTPException(413, f"A request may have {limits.images} images at most, but {found}. Send fewer at a time.")
