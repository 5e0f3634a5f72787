"""Image stores in memory, for the tests of the audit: noise pictures with planted flaws."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from consilia.config.reading import Reading
from consilia.data.decode.low_resolution import perceptual_hash
from consilia.data.sources.listing import Quarantined
from consilia.data.store.image_store import COLUMNS, ImageStore, Manifest, content_digest

CLASSES = ("benign", "malignant")


def make_audit_store(
    labels: Sequence[int],
    *,
    pixels: np.ndarray | None = None,
    patients: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    classes: tuple[str, ...] = CLASSES,
    has_patients: bool = True,
    quarantine: tuple[Quarantined, ...] = (),
) -> ImageStore:
    """Return a store whose pictures are noise unless given; every image is its own patient unless named."""
    n = len(labels)
    pictures = noise(n) if pixels is None else pixels
    index = pd.DataFrame(
        {
            "image_id": np.arange(n),
            "file": files or [f"{row:04d}.png" for row in range(n)],
            "frame": np.zeros(n, dtype=np.int64),
            "patient_id": patients or [f"p{row}" for row in range(n)],
            "label": np.asarray(labels, dtype=np.int64),
            "split": splits or [""] * n,
            "mean": pictures.mean(axis=(1, 2, 3)) / 255,
            "mean_square": (pictures / 255.0).__pow__(2).mean(axis=(1, 2, 3)),
            "pixel_digest": [hashlib.sha256(each.tobytes()).hexdigest() for each in pictures],
            "perceptual_hash": np.array([perceptual_hash(each) for each in pictures], dtype=np.uint64),
            **{name: [value] * n for name, value in (("kind", "raster"), ("format", "PNG"), ("mode", "L"))},
            **{name: np.full(n, pictures.shape[1]) for name in ("width", "height")},
        }
    )
    assert tuple(index.columns) == COLUMNS
    index = index.assign(**dict(columns or {}))
    reading = Reading(size=pictures.shape[1], channels=pictures.shape[3])
    manifest = Manifest(
        card="planted",
        classes=classes,
        reading=reading,
        kinds=("raster",),
        n_images=n,
        digest=content_digest(index, classes=classes, reading=reading),
        has_patients=has_patients,
        quarantine=quarantine,
    )
    return ImageStore(folder=Path("planted"), pixels=pictures, index=index, manifest=manifest)


def noise(n: int, *, size: int = 16, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (n, size, size, channels), dtype=np.uint8)


def alternating(n: int) -> list[int]:
    return [row % 2 for row in range(n)]


def four_to_one(n: int) -> list[str]:
    """Train for all images but every fifth pair, which is test."""
    return ["test" if row // 2 % 5 == 0 else "train" for row in range(n)]
