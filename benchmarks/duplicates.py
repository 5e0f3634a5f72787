"""How the search for duplicates grows: ten times the images should take about ten times as long.

Stores are written without decoding. The first kind holds smooth random pictures; one image in fifty is an exact copy of
another, and one in fifty a near one (other brightness, noise, moved by part of a pixel). In the second all images are
nearly the same, in the third all are almost black: a search that compared all that look alike would grow with their
square.

    python benchmarks/duplicates.py [--quick]
"""

import argparse
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.lib.format import open_memmap
from PIL import Image

from consilia.config.reading import Reading
from consilia.data.decode.low_resolution import perceptual_hash
from consilia.data.duplicates import find_duplicates
from consilia.data.groups import merge_duplicates
from consilia.data.store.image_store import ImageStore, Manifest
from shared.figures import print_figures

SIZE = 32
KINDS = ("pictures", "crowd", "black")
Pictures = npt.NDArray[np.uint8]  # (n, SIZE, SIZE, 1)


@dataclass(frozen=True)
class Measured:
    """What one search took and found; measured in a process of its own, so that no other search adds to its peak."""

    seconds: float
    peak_mb: float  # above what the process held before the search; with the pixels that are mapped
    n_pairs: int
    n_groups: int
    exact_found: float  # share of the planted pairs in one group
    near_found: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the images; ends within half a minute")
    parser.add_argument("--images", type=int, help="in the larger stores; the smaller ones hold a tenth")
    arguments = parser.parse_args()
    large = arguments.images or (5_000 if arguments.quick else 100_000)
    measured: dict[tuple[str, int], Measured] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as one,
    ):
        for kind in KINDS:
            for n_images in (large // 10, large):
                store, planted = write_store(Path(folder), kind, n_images)
                measured[kind, n_images] = one.apply(measure, (store, planted))
    report(measured, large)


def write_store(folder: Path, kind: str, n_images: int) -> tuple[ImageStore, npt.NDArray[np.int64]]:
    """Return a store, and the planted pairs: the first half of the rows is exact, the other near, (m, 2)."""
    generator = np.random.default_rng(n_images)
    pixels = open_memmap(folder / f"{kind}-{n_images}.npy", mode="w+", dtype=np.uint8, shape=(n_images, SIZE, SIZE, 1))
    for start in range(0, n_images, 1000):
        pixels[start : start + 1000] = draw(kind, min(1000, n_images - start), generator)
    planted = np.empty((0, 2), dtype=np.int64)
    if kind == "pictures":
        planted = generator.permutation(n_images)[: 4 * (n_images // 50)].reshape(-1, 2)
        half = len(planted) // 2
        for place, (first, second) in enumerate(planted.tolist()):
            pixels[second] = pixels[first] if place < half else change(pixels[first], generator)
    pixels.flush()
    index = pd.DataFrame(
        {
            "patient_id": [str(number) for number in range(n_images)],
            "pixel_digest": [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels],
            "perceptual_hash": np.array([perceptual_hash(picture) for picture in pixels], dtype=np.uint64),
        }
    )
    manifest = Manifest(
        card=kind,
        classes=("a", "b"),
        reading=Reading(size=SIZE, channels=1),
        kinds=("raster",),
        n_images=n_images,
        digest=f"{kind}-{n_images}",
        has_patients=True,
    )
    return ImageStore(
        folder=folder / f"{kind}-{n_images}.npy", pixels=pixels[:0], index=index, manifest=manifest
    ), planted


def draw(kind: str, n_images: int, generator: np.random.Generator) -> Pictures:
    """Return pictures of blobs, one picture under much noise, or almost black ones."""
    noise = generator.normal(0, 10 if kind == "crowd" else 3, (n_images, SIZE, SIZE))
    if kind == "black":
        return (noise > 6).astype(np.uint8)[..., None]
    if kind == "crowd":
        blobs = np.broadcast_to(blob(np.random.default_rng(0)), noise.shape)
    else:
        blobs = np.stack([blob(generator) for _ in range(n_images)])
    return np.clip(blobs * 0.8 + 25 + noise, 0, 255).astype(np.uint8)[..., None]


def blob(generator: np.random.Generator) -> npt.NDArray[np.float64]:
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.float64)


def change(picture: Pictures, generator: np.random.Generator) -> Pictures:
    """Return the picture with other brightness and noise, moved by up to a fifth of a pixel."""
    x, y = generator.uniform(-0.2, 0.2, 2)
    moved = Image.fromarray(picture[..., 0]).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR
    )
    changed = np.asarray(moved) * generator.uniform(0.9, 1.1) + generator.normal(0, 2, (SIZE, SIZE))
    return np.clip(changed, 0, 255).astype(np.uint8)[..., None]


def measure(described: ImageStore, planted: npt.NDArray[np.int64]) -> Measured:
    """Search the store; the pixels are mapped again here, since a map would be copied between processes."""
    pixels = np.load(described.folder, mmap_mode="r")
    store = ImageStore(folder=described.folder, pixels=pixels, index=described.index, manifest=described.manifest)
    before = _now_mb()
    started = time.perf_counter()
    pairs = find_duplicates(store)
    seconds = time.perf_counter() - started
    peak = _peak_mb() - before
    groups = merge_duplicates(store)
    together = groups[planted[:, 0]] == groups[planted[:, 1]]
    half = len(planted) // 2
    return Measured(
        seconds=seconds,
        peak_mb=peak,
        n_pairs=len(pairs),
        n_groups=len(np.unique(groups)),
        exact_found=float(together[:half].mean()) if half else float("nan"),
        near_found=float(together[half:].mean()) if half else float("nan"),
    )


def report(measured: dict[tuple[str, int], Measured], large: int) -> None:
    """Print every search, and how time and memory grew."""
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {"n_small": large // 10, "n_large": large}
    for kind in KINDS:
        small, big = measured[kind, large // 10], measured[kind, large]
        for n_images, each in ((large // 10, small), (large, big)):
            found = "" if kind != "pictures" else f"{each.exact_found:.1%} / {each.near_found:.1%}"
            counts = (str(each.n_pairs), str(each.n_groups), found)
            rows.append((kind, str(n_images), f"{each.seconds:.2f}", f"{each.peak_mb:.0f}", *counts))
        rows.append(("", "ratio", f"{big.seconds / small.seconds:.1f}", "", "", "", ""))
        figures |= {
            f"{kind}_small_s": small.seconds,
            f"{kind}_large_s": big.seconds,
            f"{kind}_ratio": big.seconds / small.seconds,
            f"{kind}_large_peak_mb": big.peak_mb,
            f"{kind}_large_groups": big.n_groups,
        }
    big = measured["pictures", large]
    figures |= {"exact_found": big.exact_found, "near_found": big.near_found, "pictures_pairs": big.n_pairs}
    header = ("", "images", "seconds", "peak MB", "pairs", "groups", "planted exact / near found")
    print_figures("Searching for duplicates (a ratio of 10 is linear)", header, rows, figures)


def _now_mb() -> float:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6 if statm.exists() else _peak_mb()


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
