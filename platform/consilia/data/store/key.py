"""Digests of everything that decides a store, or its pixels alone, made without opening an image."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from consilia.config.card import DataCard
from consilia.data.decode.workers import block_length
from consilia.data.sources.listing import ImageTable
from consilia.data.store.image_store import SCHEMA_VERSION
from consilia.files import sha256_of_json

_DECODERS = (
    *("numpy", "pillow", "pydicom"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
)
_ROWS = 10_000  # encoded at a time, so that the text of a large set is never whole in memory


@cache
def decoder_versions() -> tuple[tuple[str, str], ...]:
    """Return the version of every package that turns files into pixels; "" where it is not installed."""
    return tuple((name, _version(name)) for name in _DECODERS)


def pixels_key(card: DataCard, table: ImageTable) -> str:
    """Return the digest of all that decides which pixels are stored: files, reading, order, decoders."""
    state = hashlib.sha256(
        json.dumps(
            {
                "schema": SCHEMA_VERSION,
                "decoders": decoder_versions(),
                "reading": card.reading.model_dump(mode="json"),
                "block": block_length(card.reading),
                "root": _state(str(table.root), "") if table.archive else str(table.root),
            }
        ).encode()
    )
    for start in range(0, len(table), _ROWS):
        files, frames = table.files[start : start + _ROWS], table.frames[start : start + _ROWS]
        states = [] if table.archive else [_state(str(table.root), file) for file in files]
        state.update(json.dumps([files, frames, states]).encode())
    return state.hexdigest()


def store_key(card: DataCard, table: ImageTable, pixels: str) -> str:
    """Return the digest of all that decides a store and whether it may be made.

    Args:
        card: The data set.
        table: Its images.
        pixels: Their `pixels_key`.
    """
    content: dict[str, Any] = {
        "pixels": pixels,
        "card": [card.name, card.max_bad, table.has_patients, list(table.classes)],
        "left_out": [each.model_dump(mode="json") for each in table.left_out],
        "unreadable": [each.model_dump(mode="json") for each in table.unreadable],
        "columns": [_digest(cells) for cells in _columns(table)],
        "extra": sorted(table.extra),
    }
    return sha256_of_json(content)


def _columns(table: ImageTable) -> Iterator[Sequence[Any]]:
    yield table.labels.tolist()
    yield table.patients
    yield table.splits
    yield from (table.extra[name] for name in sorted(table.extra))


def _digest(cells: Sequence[Any]) -> str:
    state = hashlib.sha256()
    for start in range(0, len(cells), _ROWS):
        state.update(json.dumps(cells[start : start + _ROWS]).encode())
    return state.hexdigest()


def _state(root: str, file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(f"{root}/{file}" if file else root)  # a Path would take as long as the call itself
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_mode  # the mode: a file made readable is read again


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
