"""Raster files of each kind, their frames, the fit, and windows on images that are not DICOM."""

import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.config.reading import FixedWindows, PercentileWindow, Reading, Window
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.raster import fit_image
from consilia.errors import ReaderError

WINDOWS = FixedWindows(windows=tuple(Window(center=c, width=100) for c in (0, 50, 100)))
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def read(path: Path, *, size: int = 16, channels: int = 1, frame: int | None = None, **fields) -> np.ndarray:
    pixels = read_image(path, Reading(size=size, channels=channels, **fields), frame=frame).pixels
    return pixels[:, :, 0] if channels == 1 else pixels


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("a.png", {}, "PNG"),
        ("a.bmp", {}, "BMP"),
        ("a.webp", {"lossless": True}, "WEBP"),
        ("a.tif", {}, "TIFF"),
        ("a.tif", {"compression": "tiff_lzw"}, "TIFF"),
        ("a.tif", {"compression": "tiff_adobe_deflate"}, "TIFF"),
        ("a.tif", {"compression": "packbits"}, "TIFF"),
    ],
)
def test_every_lossless_format_gives_the_colours_written(tmp_path: Path, name, options, says):
    Image.fromarray(COLOURS).save(tmp_path / name, **options)
    (tmp_path / name).rename(tmp_path / "scan")  # its name tells nothing
    picture = read_image(tmp_path / "scan", Reading(size=16, channels=3))
    assert (picture.kind, picture.format, picture.mode, picture.tags) == ("raster", says, "RGB", {})
    assert np.array_equal(picture.pixels, COLOURS)


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {}), ("a.webp", {}), ("a.tif", {"compression": "jpeg"})])
def test_every_lossy_format_gives_nearly_the_grey_written(tmp_path: Path, name, options):
    rows, columns = np.mgrid[:16, :16]
    grey = (rows * 8 + columns * 7).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / name, quality=95, **options)
    assert np.abs(read(tmp_path / name).astype(int) - grey).max() <= 6


# --- values of more than 8 bits


def write_tiff(path: Path, values: np.ndarray, **tags: int) -> Path:
    """Write a grey TIFF; `photometric` 0 means that white is zero."""
    tags = {"photometric": 1, "bits": 8 * values.dtype.itemsize, "format": 3 if values.dtype.kind == "f" else 1} | tags
    entries = [
        *((256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, tags["bits"]), (259, 3, 1)),
        *((262, 3, tags["photometric"]), (273, 4, 8), (277, 3, 1), (278, 4, values.shape[0])),
        *((279, 4, values.nbytes), (339, 3, tags["format"])),
    ]
    directory = b"".join(
        np.array([tag, kind], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, kind, value in entries
    )
    header = b"II*\0" + np.array([8 + values.nbytes], "<u4").tobytes()
    path.write_bytes(header + values.tobytes() + np.array([len(entries)], "<u2").tobytes() + directory + bytes(4))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero_is_shown_as_its_negative(tmp_path: Path, dtype):
    values = np.linspace(0, np.iinfo(dtype).max, 256).astype(dtype).reshape(16, 16)
    positive = read(write_tiff(tmp_path / "a", values))
    assert np.array_equal(read(write_tiff(tmp_path / "b", values, photometric=0)), 255 - positive)
    assert (positive[0, 0], positive[-1, -1]) == (0, 255)


def test_a_tiff_of_twelve_bits_covers_black_to_white(tmp_path: Path):
    values = np.linspace(0, 4095, 256).astype(np.uint32)
    packed = np.stack([values[::2] >> 4, (values[::2] & 15) << 4 | values[1::2] >> 8, values[1::2] & 255], axis=1)
    rows = packed.astype(np.uint8).reshape(16, 24)
    path = write_tiff(tmp_path / "a", rows, bits=12)
    content = bytearray(path.read_bytes())
    at = content.index(np.array([256, 4], "<u2").tobytes())
    content[at + 8] = 16  # pixels a row, in place of bytes
    path.write_bytes(content)
    assert np.array_equal(read(path), np.rint(values / 4095 * 255).reshape(16, 16).astype(np.uint8))


def test_float_tiffs_lie_in_0_to_1_or_take_percentiles(tmp_path: Path):
    values = np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)
    path = write_tiff(tmp_path / "a.tif", values)
    with pytest.raises(ReaderError, match=r"a\.tif: float pixels must lie in \[0, 1\].*percentiles"):
        read(path)
    shown = read(path, window=PercentileWindow(low=0, high=100))
    assert np.abs(shown - (values + 3) / 8 * 255).max() <= 0.51
    white_is_zero = write_tiff(tmp_path / "b.tif", np.abs(values) / 5, photometric=0)
    with pytest.raises(ReaderError, match="black as the least value"):
        read(white_is_zero)


def test_percentiles_take_all_channels_together():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = 50, 100
    found = fit_image(image, Reading(size=8, channels=3, window=PercentileWindow(low=0, high=100)), name="a")
    assert found[0, 0].tolist() == [128, 255, 0]


# --- frames


@pytest.mark.parametrize(("name", "options"), [("a.tif", {}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_the_rule_picks_the_page_or_picture(tmp_path: Path, name, options):
    pages = [Image.new("RGB", (16, 16), (60 * i, 60 * i, 60 * i)) for i in range(4)]
    path = tmp_path / name
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    assert count_frames(path) == 4
    assert (read(path, frames="first") == 0).all()
    assert (read(path, frames="middle") == 120).all()
    assert [int(read(path, frames="each", frame=i)[0, 0]) for i in range(4)] == [0, 60, 120, 180]
    with pytest.raises(ReaderError, match=rf"{name}: the file has 4 frames.*`frames: first`, `middle` or `each`"):
        read(path)
    with pytest.raises(ReaderError, match=f"{name}: frame 4 must be one"):
        read(path, frames="each", frame=4)
    Image.fromarray(COLOURS).save(path)
    assert count_frames(path) == 1


def test_more_frames_than_a_file_has_bytes_for_are_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path, save_all=True, append_images=[Image.new("RGB", (16, 16))])
    content = bytearray(path.read_bytes())
    at = content.index(b"acTL")
    content[at + 4 : at + 8] = (1 << 30).to_bytes(4, "big")
    content[at + 12 : at + 16] = zlib.crc32(content[at : at + 12]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ReaderError, match=r"a\.png: .*1,073,741,824 frames"):
        count_frames(path)


def test_a_phones_picture_with_a_second_one_inside_counts_as_one(tmp_path: Path):
    whole, preview = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (8, 8), "black")
    whole.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert count_frames(tmp_path / "a.jpg") == 1
    assert read_image(tmp_path / "a.jpg", Reading(size=16, channels=1)).format == "JPEG"


# --- fit


def corners(height: int, width: int) -> np.ndarray:
    image = np.full((height, width), 100, np.uint8)
    image[:, :2], image[:, -2:] = 0, 255
    return image


def test_crop_keeps_the_central_square_as_it_is():
    image = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40).astype(np.uint8)
    found = fit_image(image, Reading(size=24, channels=1, fit="crop"), name="a")[:, :, 0]
    assert np.array_equal(found, image[:, 8:32])


def test_crop_loses_the_long_ends_and_stretch_shows_them():
    for image in (corners(32, 64), Image.fromarray(corners(32, 64))):
        cropped, stretched = (
            fit_image(image, Reading(size=16, channels=1, fit=fit), name="a")[:, :, 0] for fit in ("crop", "stretch")
        )
        assert (cropped == 100).all()
        assert (stretched[:, 0] < 100).all()
        assert (stretched[:, -1] > 150).all()


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_of_the_stored_size_is_kept_by_every_fit(fit, channels):
    image = COLOURS if channels == 3 else COLOURS[:, :, 0]
    found = fit_image(image, Reading(size=16, channels=channels, fit=fit), name="a")
    assert np.array_equal(found.reshape(image.shape), image)


# --- windows


@pytest.mark.parametrize("image", [COLOURS, COLOURS[:, :, 0], Image.fromarray(COLOURS)])
def test_dicoms_windows_are_refused_for_other_images_unless_told_how(image):
    reading = Reading(size=16, channels=3, window=WINDOWS)
    with pytest.raises(ReaderError, match="the image: the windows are in the values of DICOM"):
        fit_image(image, reading, name="the image")


def test_a_colour_image_as_displayed_fills_three_channels_and_a_grey_one_none():
    reading = Reading(size=16, channels=3, window=WINDOWS)
    assert np.array_equal(fit_image(COLOURS, reading, name="a", as_displayed=True), COLOURS)
    with pytest.raises(ReaderError, match="one grey cannot"):
        fit_image(COLOURS[:, :, 0], reading, name="a", as_displayed=True)
    two = Reading(size=16, channels=2, window=FixedWindows(windows=WINDOWS.windows[:2]))
    with pytest.raises(ReaderError, match="three colours cannot"):
        fit_image(COLOURS, two, name="a", as_displayed=True)


def test_one_window_or_percentiles_yield_to_the_display():
    for window in (FixedWindows(windows=WINDOWS.windows[:1]), PercentileWindow()):
        reading = Reading(size=16, channels=1, window=window)
        shown = fit_image(COLOURS[:, :, 0], reading, name="a", as_displayed=True)
        assert np.array_equal(shown[:, :, 0], COLOURS[:, :, 0])


# --- damage


def test_a_tiff_that_lost_tags_is_refused(tmp_path: Path):
    path = write_tiff(tmp_path / "a.tif", COLOURS[:, :, 0].copy())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ReaderError, match=r"a\.tif: "):
        read(path)


def test_fax_compression_is_refused_since_its_damage_cannot_be_told(tmp_path: Path):
    Image.new("1", (16, 16)).save(tmp_path / "a.tif", compression="group4")
    with pytest.raises(ReaderError, match=r"a\.tif: a TIFF with fax compression"):
        read(tmp_path / "a.tif")


def test_odd_exif_data_neither_warn_nor_stop_a_file(tmp_path: Path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(tmp_path / "a.jpg")
    assert not caught
