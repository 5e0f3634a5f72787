"""How fast a data set is prepared: consilia on all cores against a plain loop over Pillow, on the same files.

The loop is what a script does in one process: open, convert to grey, resize to fit, put into one array. consilia's time
is that of a whole prepare: listing, decoding, digests, hashes, statistics, journal, index, and everything synced to
disk. Both run in turn after the files were read once. Real radiographs are copied until there are enough, once as the
PNG files they are and once as JPEG; without --data, images are drawn. Then each DICOM file is decoded again and again
in one process, with the decoder that pydicom takes.

    python benchmarks/prepare.py [--quick] [--data DIR]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.decoders.base import get_decoder
from rich.console import Console
from rich.table import Table

from consilia.config.card import DataCard
from consilia.config.reading import PercentileWindow, Reading
from consilia.data.decode.reader import read_image
from consilia.data.store.prepare import prepare
from consilia.errors import ReaderError
from shared.figures import print_figures

JPEG_QUALITY = 90
GOAL = 0.9  # of the number of cores
READERS = {"PNG": "Pillow (zlib)", "JPEG": "Pillow (libjpeg-turbo)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images; ends within two minutes on two cores")
    parser.add_argument("--data", type=Path, help="a folder with cxr-views/images/*.png and dicom/*.dcm")
    parser.add_argument("--images", type=int, help="files of each format")
    parser.add_argument("--runs", type=int, help="of each side, in turn")
    arguments = parser.parse_args()
    n_images = arguments.images or (1000 if arguments.quick else 4000)
    n_runs = arguments.runs or (2 if arguments.quick else 5)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folders = copy_images(find_images(arguments.data, folder), folder, n_images)
        sides = {(name, size): compare(name, size, folders[name], n_runs) for name in folders for size in (128, 224)}
        dicom = measure_dicom(find_dicom(arguments.data, folder), seconds=0.2 if arguments.quick else 1.0)
    report(sides, dicom, n_images)


def find_images(data: Path | None, folder: Path) -> list[Path]:
    """Return real PNG files, or drawn ones of about their size."""
    if data is not None:
        return sorted((data / "cxr-views" / "images").glob("*.png"))
    drawn = folder / "drawn"
    drawn.mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 12), dtype=np.uint8)).resize((320, 280))
        noise = generator.normal(0, 4, (280, 320))
        pixels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(drawn / f"{number:02d}.png")
    return sorted(drawn.iterdir())


def copy_images(images: Sequence[Path], folder: Path, n_images: int) -> dict[str, Path]:
    """Copy the images, again and again, to two classes of PNG files; and all of these as JPEG files."""
    png, jpeg = folder / "PNG", folder / "JPEG"
    for number in range(n_images):
        source = images[number % len(images)]
        name = Path("ab"[number % 2]) / f"{number:06d}"
        for root in (png, jpeg):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, (png / name).with_suffix(".png"))
        if number < len(images):
            with Image.open(source) as image:
                image.convert("L").save((jpeg / name).with_suffix(".jpg"), quality=JPEG_QUALITY)
        else:
            first = number % len(images)
            shutil.copyfile(jpeg / "ab"[first % 2] / f"{first:06d}.jpg", (jpeg / name).with_suffix(".jpg"))
    return {"PNG": png, "JPEG": jpeg}


def compare(name: str, size: int, folder: Path, n_runs: int) -> dict[str, float]:
    """Return the medians of both sides' images per second, and of their ratios."""
    files = sorted(folder.rglob("*.*"))
    card = DataCard.model_validate(
        {"name": name, "path": str(folder), "source": {"kind": "folder"}, "group": "none", "size": size}
    )
    run_plain(files, size)  # warm-up: the files are in memory afterwards
    plain, ours = [], []
    for _ in range(n_runs):
        plain.append(len(files) / run_plain(files, size))
        ours.append(len(files) / run_prepare(card))
    ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
    return {"plain": statistics.median(plain), "consilia": statistics.median(ours), "ratio": ratio}


def run_plain(files: Sequence[Path], size: int) -> float:
    """Return the seconds of a loop in this process."""
    began = time.perf_counter()
    pixels = np.zeros((len(files), size, size), dtype=np.uint8)
    for number, file in enumerate(files):
        with Image.open(file) as image:
            grey = image.convert("L")
        scale = size / max(grey.size)
        width, height = (max(1, round(side * scale)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BILINEAR)
        top, left = (size - height) // 2, (size - width) // 2
        pixels[number, top : top + height, left : left + width] = np.asarray(grey)
    return time.perf_counter() - began


def run_prepare(card: DataCard) -> float:
    """Return the seconds of a whole prepare into an empty folder."""
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        prepare(card, root=Path(root))
        return time.perf_counter() - began


def find_dicom(data: Path | None, folder: Path) -> list[Path]:
    """Return real DICOM files, or a drawn one, plain and run-length encoded."""
    if data is not None:
        return sorted((data / "dicom").glob("*.dcm"))
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.ComputedRadiographyImageStorage, "1.2.3"
    header.PixelRepresentation = 0
    pixels = np.random.default_rng(0).integers(0, 4096, (512, 512), dtype=np.uint16)
    header.set_pixel_data(pixels, "MONOCHROME2", 12)
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.save_as(folder / "plain.dcm", enforce_file_format=True)
    header.compress(pydicom.uid.RLELossless)
    header.save_as(folder / "rle.dcm", enforce_file_format=True)
    return [folder / "plain.dcm", folder / "rle.dcm"]


def measure_dicom(files: Sequence[Path], *, seconds: float) -> list[dict[str, str | float]]:
    """Return images per second of each readable file, in this process."""
    reading = Reading(size=224, channels=1, window=PercentileWindow(), frames="first")
    measured: list[dict[str, str | float]] = []
    for file in files:
        try:
            picture = read_image(file, reading)
        except ReaderError:
            continue
        syntax = pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            read_image(file, reading)
            count += 1
        plugins = get_decoder(syntax).available_plugins if syntax.is_encapsulated else ("pydicom, no plugin",)
        measured.append(
            {
                "file": file.name,
                "syntax": syntax.name,
                "decoder": plugins[0],
                "pixels": f"{picture.width} x {picture.height} {picture.mode}",
                "images_s": count / (time.perf_counter() - began),
            }
        )
    return measured


def report(sides: dict[tuple[str, int], dict[str, float]], dicom: list[dict[str, str | float]], n_images: int) -> None:
    """Print both tables."""
    cores = len(os.sched_getaffinity(0))
    table = Table(
        *("file", "pixels", "transfer syntax", "decoder", "images/s"),
        title="DICOM to 224 x 224 in one process",
        title_justify="left",
    )
    for each in dicom:
        syntax = str(each["syntax"]).split(", Non-Hierarchical")[0]
        table.add_row(
            str(each["file"])[-20:], str(each["pixels"]), syntax, str(each["decoder"]), f"{each['images_s']:,.0f}"
        )
    Console(width=120).print(table)
    rows = [
        (
            name,
            str(size),
            *(f"{side[key]:,.0f}" for key in ("plain", "consilia")),
            f"{side['ratio']:.2f}",
            READERS[name],
        )
        for (name, size), side in sides.items()
    ]
    print_figures(
        f"Images per second, {n_images} files a format; goal: ratio {GOAL * cores:.1f} = {GOAL} x {cores} cores",
        ("format", "size", "Pillow loop", "consilia", "ratio", "reader"),
        rows,
        {
            "ratios": {f"{name} {size}": side["ratio"] for (name, size), side in sides.items()},
            "images_per_second": {f"{name} {size}": side for (name, size), side in sides.items()},
            "goal": GOAL * cores,
            "n_images": n_images,
            "dicom": dicom,
        },
    )


if __name__ == "__main__":
    main()
