"""Reading a bundle: a folder of JSON and safetensors that is checked before it is trusted.

Nothing in a bundle is run: weights are safetensors, the rest is JSON and arrays without pickle.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from consilia.bundle.array_files import OOD, SEEN, SETS
from consilia.bundle.document import SCHEMA_VERSION, BundleDocument, FileRecord
from consilia.bundle.golden import GOLDEN
from consilia.errors import BundleError
from consilia.files import sha256_of_file, sha256_of_json
from consilia.version import __version__

DOCUMENT, CARD = "ensemble.json", "card.md"
_MAX_DOCUMENT_BYTES = 16 * 2**20


def read_bundle(path: Path) -> BundleDocument:
    """Read `ensemble.json` and check place, size and SHA-256 of every file that it lists; read no other.

    Raises:
        BundleError: The folder is not a bundle, has another schema, lacks a file, holds one that was changed, or names
            one outside itself.
    """
    content = _read_document(path / DOCUMENT)
    _check_version(path, content)
    digest = content.pop("digest", None)
    if digest != sha256_of_json(content):
        raise BundleError(f"{path / DOCUMENT} has been changed: its digest does not fit. {_AGAIN}")
    try:
        document = BundleDocument.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path / DOCUMENT}: {key or 'the document'}: {first['msg']}. {_AGAIN}") from error
    for name, record in document.files.items():
        _check_file(path, name, record)
    for needed, is_needed in _NEEDED.items():
        if is_needed(document) and needed not in document.files:
            raise BundleError(f"{path / DOCUMENT}: files must list {needed}. {_AGAIN}")
    return document


def read_digest(path: Path) -> str:
    """Return the SHA-256 of a bundle that `read_bundle` has checked: it covers the hash of every file.

    Raises:
        BundleError: The folder is not a bundle.
    """
    return str(_read_document(path / DOCUMENT)["digest"])


_NEEDED: Mapping[str, Callable[[BundleDocument], bool]] = {
    GOLDEN: lambda document: True,
    SEEN: lambda document: True,
    CARD: lambda document: True,
    SETS: lambda document: document.has_sets,
    OOD: lambda document: document.gate is not None,
}
_AGAIN = "Copy the bundle again, or build it again: consilia ensemble STUDY"


def _read_document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path.parent} must be the folder of an ensemble, but it holds no {DOCUMENT}.")
    if path.stat().st_size > _MAX_DOCUMENT_BYTES:
        raise BundleError(f"{path} may have {_MAX_DOCUMENT_BYTES} bytes at most, but has {path.stat().st_size}.")
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}. {_AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold a JSON object, but holds a {type(content).__name__}. {_AGAIN}")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _check_version(path: Path, content: dict[str, Any]) -> None:
    found = content.get("schema_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise BundleError(f"{path / DOCUMENT}: schema_version must be a whole number from 1, but is {found!r}.")
    if found > SCHEMA_VERSION:
        writer = content.get("consilia", "(unknown version)")
        raise BundleError(
            f"{path} was written by consilia {writer} with schema version {found}; consilia "
            f"{__version__} reads version {SCHEMA_VERSION}. Install consilia {writer} or later."
        )
    if found < SCHEMA_VERSION:
        raise BundleError(
            f"{path} must have schema version {SCHEMA_VERSION}, the only one that consilia {__version__} reads, but "
            f"has {found}. Build it again: consilia ensemble STUDY"
        )


def _check_file(bundle: Path, name: str, record: FileRecord) -> None:
    path = bundle / _inside(bundle, name)
    if not path.is_file():
        raise BundleError(f"{bundle} must hold {name}, but the file is missing. {_AGAIN}")
    if path.stat().st_size != record.bytes:
        raise BundleError(f"{path} must have {record.bytes} bytes, but has {path.stat().st_size}. {_AGAIN}")
    if sha256_of_file(path) != record.sha256:
        raise BundleError(f"{path} has been changed: its SHA-256 is not the one in {DOCUMENT}. {_AGAIN}")


def _inside(bundle: Path, name: str) -> PurePosixPath:
    """Return `name` as a path, if it stays in the bundle and neither it nor a folder on its way is a link."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name or "\0" in name:
        raise BundleError(f"{bundle / DOCUMENT}: a file must lie in the bundle, but {name!r} leads out of it.")
    for part in (path, *path.parents):
        if part.parts and (bundle / part).is_symlink():
            raise BundleError(
                f"{bundle}: a bundle must not hold links, but {part} is one. Put what it points to in its place."
            )
    return path
