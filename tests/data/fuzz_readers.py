"""Feed damaged files to the readers: each must end in an image of the right shape or an error that names the file.

    python tests/data/fuzz_readers.py --cases 20000 [--seed 0] [--jobs 1] [--data DIR]

Cases are made from whole files: pydicom's own examples, those of --data (or CONSILIA_REAL_DATA), and raster files
of each kind drawn here. A case is decoded in a child process with bounded memory and time, so that a decoder that
crashes or hangs is counted, not suffered. `--case N` repeats one case in this process.
"""

import argparse
import io
import os
import selectors
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from consilia.config.reading import FileWindow, FixedWindows, PercentileWindow, Reading, Window
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.dicom.header import is_dicom, read_tags
from consilia.errors import ReaderError

MEMORY_BYTES = 3 * 2**30  # of address space; the interpreter and its libraries take one of them
CASE_SECONDS = 20.0
GOOD = ("image", "refused")


@dataclass(frozen=True)
class Specimen:
    """A whole file to damage."""

    label: str  # what the table counts it under
    suffix: str
    content: bytes


# --- whole files


def load_corpus(data: Path | None) -> list[Specimen]:
    """Collect whole files; always in the same order."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    folders += [data / "dicom"] if data else []
    files = [file for folder in folders for file in sorted(folder.glob("*.dcm")) if file.stat().st_size < 1_200_000]
    rasters = [Image.open(file) for file in sorted((data / "cxr-views").glob("**/*.png"))[:6]] if data else []
    rasters.append(Image.fromarray(_drawn()))
    return [_dicom(file) for file in files if _is_whole(file)] + [
        one for image in rasters for one in _raster_files(image)
    ]


def _is_whole(file: Path) -> bool:
    try:
        read_image(file, Reading(size=8, channels=1, window=PercentileWindow(), frames="first"))
    except ReaderError:
        return False
    return True


def _drawn() -> np.ndarray:
    rows, columns = np.mgrid[:90, :120]
    return np.dstack([rows * 2, columns * 2, (rows * columns) % 256]).astype(np.uint8)


def _dicom(file: Path) -> Specimen:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = getattr(pydicom.dcmread(file, force=True, stop_before_pixels=True), "file_meta", {})
        syntax = meta.get("TransferSyntaxUID") if meta else None
    name = syntax.keyword if syntax else "without syntax"
    return Specimen(f"DICOM {name}", ".dcm", file.read_bytes())


def _raster_files(image: Image.Image) -> Iterator[Specimen]:
    grey, colour = image.convert("L"), image.convert("RGB")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    small = colour.resize((40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield _saved("PNG", grey, "PNG")
    yield _saved("PNG palette", colour.quantize(16), "PNG", transparency=3)
    yield _saved("PNG 16 bit", deep, "PNG")
    yield _saved("PNG animated", small, "PNG", save_all=True, append_images=[small.rotate(90)])
    yield _saved("JPEG", colour, "JPEG", exif=exif)
    yield _saved("JPEG progressive", grey, "JPEG", progressive=True)
    yield _saved("JPEG CMYK", colour.convert("CMYK"), "JPEG")
    yield _saved("WebP", colour, "WEBP")
    yield _saved("WebP lossless", colour.convert("RGBA"), "WEBP", lossless=True)
    yield _saved("WebP animated", small, "WEBP", save_all=True, append_images=[small.rotate(90)])
    yield _saved("BMP", colour, "BMP")
    yield _saved("BMP", colour.quantize(16), "BMP")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        yield _saved(f"TIFF {compression}", colour, "TIFF", compression=compression)
    yield _saved("TIFF 1 bit", grey.convert("1"), "TIFF", compression="tiff_lzw")
    yield _saved("TIFF 16 bit", deep, "TIFF")
    yield _saved("TIFF float", Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF")
    yield _saved("TIFF pages", small, "TIFF", save_all=True, append_images=[small.rotate(90)])


def _saved(label: str, image: Image.Image, kind: str, **options: object) -> Specimen:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Specimen(label, "." + kind.lower(), buffer.getvalue())


# --- damage


def make_case(corpus: list[Specimen], seed: int, case: int) -> tuple[Specimen, bytes, Reading, bool]:
    """Return a specimen, its damaged bytes, and how they are read; the same for the same numbers."""
    rng = np.random.default_rng([seed, case])
    specimen = corpus[case % len(corpus)]
    data = bytearray(specimen.content)
    for _ in range(int(rng.integers(1, 4))):
        damage = _DAMAGES[int(rng.integers(len(_DAMAGES)))]
        data = damage(data, rng, corpus)
    if specimen.suffix == ".png" and rng.random() < 0.7:
        data = _mend_checksums(data)
    return specimen, bytes(data), _reading(rng), bool(rng.random() < 0.2)


def _flip(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    for _ in range(int(rng.integers(1, 20)) if data else 0):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return data


def _flip_bits_of_the_header(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    for _ in range(int(rng.integers(1, 6)) if data else 0):
        data[int(rng.integers(min(len(data), 2500)))] ^= 1 << int(rng.integers(8))
    return data


def _flip_the_end(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    for _ in range(int(rng.integers(1, 6)) if data else 0):
        data[-int(rng.integers(1, min(len(data), 400) + 1))] = int(rng.integers(256))
    return data


def _truncate(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _cut_out(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 200)) :]


def _repeat(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start : start + int(rng.integers(1, 200))] + data[start:]


def _splice(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    other = corpus[int(rng.integers(len(corpus)))].content
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]


def _change_an_element(data: bytearray, rng: np.random.Generator, corpus: list[Specimen]) -> bytearray:
    """Change the value or length of an element of DICOM's image group, or a marker segment of a codestream."""
    key = [b"\x28\x00", b"\x28\x00", b"\x02\x00", b"\xff", b"\xfe\xff"][int(rng.integers(5))]
    places = []
    at = data.find(key)
    while at >= 0 and len(places) < 400:
        places.append(at)
        at = data.find(key, at + 1)
    if places:
        start = places[int(rng.integers(len(places)))] + int(rng.integers(2, 14))
        special = [0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))][int(rng.integers(6))]
        data[start : start + int(rng.integers(1, 3))] = bytes([special]) * int(rng.integers(1, 3))
    return data


def _mend_checksums(data: bytearray) -> bytearray:
    """Make a PNG's checksums right again, so that damage reaches the decoder."""
    position = 8
    while position + 12 <= len(data):
        length = struct.unpack_from(">I", data, position)[0]
        end = position + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return data


_DAMAGES = (
    *(_flip, _flip_bits_of_the_header, _flip_bits_of_the_header, _flip_the_end, _truncate, _cut_out, _repeat),
    *(_splice, _change_an_element, _change_an_element, _change_an_element),
)
_WINDOWS = (Window(center=-600, width=1500), Window(center=40, width=400), Window(center=300, width=1500))


def _reading(rng: np.random.Generator) -> Reading:
    rules = (FileWindow(), PercentileWindow(), FixedWindows(windows=_WINDOWS[:2]), FixedWindows(windows=_WINDOWS))
    rule = rules[int(rng.choice(4, p=[0.4, 0.4, 0.1, 0.1]))]
    channels = len(rule.windows) if isinstance(rule, FixedWindows) else int(rng.choice([1, 3]))
    return Reading(
        size=int(rng.choice([8, 32, 50])),
        channels=channels,
        fit=("pad", "crop", "stretch")[int(rng.integers(3))],
        window=rule,
        frames=("first", "middle", "single", "each")[int(rng.choice(4, p=[0.5, 0.3, 0.1, 0.1]))],
    )


# --- one case


def run_case(corpus: list[Specimen], seed: int, case: int, folder: Path) -> tuple[str, str]:
    """Return the label and the outcome of one case."""
    specimen, content, reading, as_displayed = make_case(corpus, seed, case)
    path = folder / f"case{specimen.suffix}"
    path.write_bytes(content)
    try:
        pixels = read_image(path, reading, as_displayed=as_displayed).pixels
        facts = count_frames(path), read_tags(path) if is_dicom(path) else {}
        if facts[0] < 1 or not all(isinstance(text, str) for text in facts[1].values()):
            return specimen.label, f"impossible facts {facts}"
    except ReaderError as error:
        return specimen.label, "refused" if str(path) in str(error) else f"unnamed: {error}"
    except BaseException as error:
        return specimen.label, f"raised {type(error).__name__}: {str(error)[:200]}"
    right = pixels.dtype == np.uint8 and pixels.shape == (reading.size, reading.size, reading.channels)
    return specimen.label, "image" if right else f"wrong shape {pixels.shape}"


def _serve(seed: int, first: int, last: int, step: int, data: Path | None) -> None:
    """Run cases, and say on standard output which one begins and how each ended."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")  # a reader must not warn
    corpus = load_corpus(data)
    print("ready", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, last, step):
            print(f"begin\t{case}\t{corpus[case % len(corpus)].label}", flush=True)
            label, outcome = run_case(corpus, seed, case, Path(folder))
            print(f"end\t{case}\t{label}\t{' '.join(outcome.split())}", flush=True)


# --- all cases


def run_cases(cases: int, seed: int, data: Path | None, jobs: int = 1) -> list[tuple[int, str, str]]:
    """Return (case, label, outcome) of every case."""
    with ThreadPoolExecutor(jobs) as pool:
        parts = pool.map(lambda job: _supervise(job, cases, jobs, seed, data), range(jobs))
        return sorted(outcome for part in parts for outcome in part)


def _supervise(first: int, last: int, step: int, seed: int, data: Path | None) -> list[tuple[int, str, str]]:
    outcomes: list[tuple[int, str, str]] = []
    while first < last:
        done, broken = _run_child(first, last, step, seed, data)
        outcomes += done
        if broken is None:
            break
        outcomes.append(broken)
        first = broken[0] + step
    return outcomes


def _run_child(
    first: int, last: int, step: int, seed: int, data: Path | None
) -> tuple[list[tuple[int, str, str]], tuple[int, str, str] | None]:
    """Run cases in a child until it ends, dies or hangs; return what ended, and the case that broke it."""
    numbers = ["--serve", f"{first},{last},{step}", "--seed", str(seed)]
    command = [sys.executable, __file__, *numbers, *(["--data", str(data)] if data else [])]
    done, running = [], None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment) as child:
        assert child.stdout is not None
        waiting = selectors.DefaultSelector()
        waiting.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not waiting.select(CASE_SECONDS if running else 120):
                child.kill()
                assert running, "the child never began"
                return done, (*running, f"hang of more than {CASE_SECONDS:.0f} s")
            line = child.stdout.readline()
            if not line:
                break
            word, *parts = line.rstrip("\n").split("\t")
            if word == "begin":
                running = (int(parts[0]), parts[1])
            elif word == "end":
                done.append((int(parts[0]), parts[1], parts[2]))
                running = None
        code = child.wait()
    if running:
        return done, (*running, f"crash with exit code {code}")
    assert code == 0, f"the child ended with {code} outside a case"
    return done, None


def show(outcomes: list[tuple[int, str, str]]) -> int:
    """Print a table by format and outcome, and each violation; return how many violations there are."""
    counts = Counter((label, outcome if outcome in GOOD else "violation") for _, label, outcome in outcomes)
    labels = sorted({label for label, _ in counts})
    print(f"{'format':45}{'image':>8}{'refused':>9}{'violation':>11}")
    for label in labels:
        print(f"{label:45}{counts[label, 'image']:8}{counts[label, 'refused']:9}{counts[label, 'violation']:11}")
    columns = [sum(counts[label, kind] for label in labels) for kind in (*GOOD, "violation")]
    print(f"{'all ' + str(len(outcomes)):45}{columns[0]:8}{columns[1]:9}{columns[2]:11}")
    for case, label, outcome in outcomes:
        if outcome not in GOOD:
            print(f"case {case}, {label}: {outcome}")
    return columns[2]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that decode at once")
    parser.add_argument("--data", type=Path, default=os.environ.get("CONSILIA_REAL_DATA"), help="real files as well")
    parser.add_argument("--case", type=int, help="repeat this one here, and leave its file in the current folder")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Return 1 if any case ended otherwise than it must."""
    arguments = _parse()
    data = Path(arguments.data) if arguments.data else None
    if arguments.serve:
        first, last, step = map(int, arguments.serve.split(","))
        _serve(arguments.seed, first, last, step, data)
        return 0
    if arguments.case is not None:
        print(*run_case(load_corpus(data), arguments.seed, arguments.case, Path.cwd()), sep="\t")
        return 0
    return 1 if show(run_cases(arguments.cases, arguments.seed, data, arguments.jobs)) else 0


if __name__ == "__main__":
    sys.exit(main())
