"""One image in, one square of bytes out, or an error that names the file."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.config.reading import Reading
from consilia.data.decode.reader import read_image
from consilia.data.raster import fit_image
from consilia.data.square import MAX_PIXELS
from consilia.errors import ReaderError


def fit(image, *, size=16, channels=1):
    return fit_image(image, Reading(size=size, channels=channels), name="the image")


def attempt(path: Path) -> np.ndarray | str:
    """The pixels, or the message of a ReaderError; any other exception fails the test."""
    try:
        return read_image(path, Reading(size=16, channels=1)).pixels
    except ReaderError as error:
        return str(error)


def gradient(height=16, width=16):
    return (np.arange(height)[:, None] * 7 + np.arange(width)[None, :] * 5).astype(np.uint8)


def test_an_image_of_the_stored_size_is_kept_bit_for_bit(tmp_path: Path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", Reading(size=16, channels=1)).pixels[:, :, 0], gradient())


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1)])
def test_grey_is_repeated_for_a_colour_model(shape):
    fitted = fit(gradient().reshape(shape), channels=3)
    assert fitted.shape == (16, 16, 3)
    assert all(np.array_equal(fitted[:, :, i], gradient()) for i in range(3))


def test_colour_becomes_grey_by_its_luminance():
    pure = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    for channel in range(3):
        pure[channel, :, :, channel] = 255
    greys = [int(fit(image)[0, 0, 0]) for image in pure]
    assert greys == [round(255 * weight) for weight in (0.299, 0.587, 0.114)]  # ITU-R BT.601


def test_grey_stored_as_colour_reads_as_the_grey_it_is():
    assert np.array_equal(fit(np.dstack([gradient()] * 3)), fit(gradient()))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_wide_image_lies_whole_on_black_with_its_sides_in_proportion(tmp_path: Path, suffix):
    path = tmp_path / f"wide.{suffix}"
    Image.new("L", (40, 20), 200).save(path)
    fitted = read_image(path, Reading(size=20, channels=1)).pixels[:, :, 0]
    assert (fitted[5:15] == 200).all()
    assert (fitted[:5] == 0).all()
    assert (fitted[15:] == 0).all()


def test_the_thinnest_image_keeps_a_line():
    assert fit(np.full((1000, 1), 255, np.uint8)).any(axis=0).sum() == 1


def test_shrinking_averages_so_that_fine_stripes_do_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = fit(stripes, size=16)[4:-4, 4:-4]
    assert abs(float(shrunk.mean()) - 127.5) < 2
    assert shrunk.std() < 4


def test_sixteen_bits_are_scaled_from_their_full_range_not_from_the_image(tmp_path: Path):
    values = np.linspace(0, 32767, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    from_file = read_image(tmp_path / "deep.png", Reading(size=16, channels=1)).pixels
    assert np.array_equal(from_file[:, :, 0], np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(from_file, fit(values))
    assert from_file.max() == 127


def test_every_sixteen_bit_value_rounds_as_real_division_does():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(fit(values, size=256)[:, :, 0], np.rint(values / 257).astype(np.uint8))


def test_floats_cover_black_to_white():
    assert np.array_equal(fit(gradient() / 255.0), fit(gradient()))
    assert np.array_equal(fit(Image.fromarray((gradient() / 255.0).astype(np.float32))), fit(gradient()))


def test_thirty_two_bit_grey_counts_as_sixteen():
    wide = Image.fromarray(np.full((16, 16), 65535, np.int32))
    assert (fit(wide) == 255).all()
    with pytest.raises(ReaderError, match=r"the image: .*0 \.\.\. 65535.*70000"):
        fit(Image.fromarray(np.full((16, 16), 70000, np.int32)))


def test_transparency_is_laid_on_black(tmp_path: Path):
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:, :8, 3] = 0
    pixels[:, 8:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    Image.fromarray(pixels).convert("LA").save(tmp_path / "grey-alpha.png")
    for name in ("alpha.png", "grey-alpha.png"):
        fitted = read_image(tmp_path / name, Reading(size=16, channels=1)).pixels[:, :, 0]
        assert (fitted[:, :8] == 0).all()
        assert (fitted[:, 8:] == 200).all()


@pytest.mark.parametrize("transparency", [None, 3, bytes([255, 0, 255, 0])])
def test_a_palette_gives_its_colours_and_not_its_numbers(tmp_path: Path, transparency):
    indexed = Image.new("P", (16, 16), 1)
    indexed.putpalette([0, 0, 0, 240, 240, 240, 10, 10, 10, 20, 20, 20])
    indexed.paste(2, (0, 0, 16, 8))
    options = {} if transparency is None else {"transparency": transparency}
    indexed.save(tmp_path / "palette.png", **options)
    fitted = read_image(tmp_path / "palette.png", Reading(size=16, channels=1)).pixels[:, :, 0]
    assert (fitted[:8] == 10).all()
    assert (fitted[8:] == (0 if isinstance(transparency, bytes) else 240)).all()


def test_two_level_images_are_black_and_white():
    assert sorted(np.unique(fit(Image.fromarray(gradient() > 60))).tolist()) == [0, 255]


def test_a_cmyk_jpeg_is_read_as_colour(tmp_path: Path):
    Image.new("RGB", (16, 16), (255, 255, 255)).convert("CMYK").save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg", Reading(size=16, channels=1)).pixels.min() >= 250


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_exif_orientation_is_applied(tmp_path: Path, suffix):
    upright = Image.fromarray(np.repeat(np.repeat(gradient(2, 2) * 20, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / f"turned.{suffix}", exif=exif)
    stored.save(tmp_path / f"plain.{suffix}")
    turned = read_image(tmp_path / f"turned.{suffix}", Reading(size=16, channels=1)).pixels
    plain = read_image(tmp_path / f"plain.{suffix}", Reading(size=16, channels=1)).pixels
    assert np.array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_file_never_yields_other_pixels_than_the_whole_one(tmp_path: Path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)).save(whole)
    data, pixels = whole.read_bytes(), read_image(whole, Reading(size=16, channels=1)).pixels
    cut, refused = tmp_path / f"cut.{suffix}", 0
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        outcome = attempt(cut)
        refused += isinstance(outcome, str)
        assert str(cut) in outcome if isinstance(outcome, str) else np.array_equal(outcome, pixels)
    assert refused > 0.9 * len(data)


def test_random_damage_gives_pixels_or_a_reader_error_and_nothing_else(tmp_path: Path):
    generator = np.random.default_rng(1)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(gradient(32, 32)).save(path)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            outcome = attempt(path)
            assert str(path) in outcome if isinstance(outcome, str) else outcome.shape == (16, 16, 1)


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    chunks = [chunk, data, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in chunks
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_header_that_promises_too_many_pixels_is_refused_before_they_are_made(tmp_path: Path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(side, side))
    with pytest.raises(ReaderError, match=f"{MAX_PIXELS:,}") as caught:
        read_image(path, Reading(size=16, channels=1))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"not an image at all", "neither DICOM, PNG, JPEG"),
        (b"GIF89a" + bytes(40), "neither DICOM, PNG, JPEG"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content, says):
    path = tmp_path / "strange.png"
    path.write_bytes(content)
    with pytest.raises(ReaderError, match=says) as caught:
        read_image(path, Reading(size=16, channels=1))
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(ReaderError, match=r"absent\.png: the file does not exist"):
        read_image(tmp_path / "absent.png", Reading(size=16, channels=1))
    with pytest.raises(ReaderError, match="folder"):
        read_image(tmp_path, Reading(size=16, channels=1))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"\(h, w, 3\), but has \(4, 4, 4\)"),
        (np.zeros(16, np.uint8), r"has \(16,\)"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.full((4, 4), 255.0), r"\[0, 1\].*255"),
        (np.full((4, 4), np.nan), r"\[0, 1\].*nan"),
        (np.full((4, 4), -0.1), r"\[0, 1\].*-0\.1"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        ("a path", "str"),
    ],
)
def test_arrays_that_cannot_be_taken_say_what_must_hold(array, says):
    with pytest.raises(ReaderError, match=says) as caught:
        fit(array)
    assert "the image" in str(caught.value)


def test_a_cut_file_that_pillow_has_opened_but_not_read_is_refused(tmp_path: Path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(ReaderError, match=r"the image: .*truncated"):
        fit(image)


def test_the_argument_is_left_as_it_was():
    array = gradient(20, 10)
    before = array.copy()
    fit(array)[:] = 0
    assert np.array_equal(array, before)
