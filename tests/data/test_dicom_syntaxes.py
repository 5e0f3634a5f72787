"""Each transfer syntax gives the pixels that were written; what is damaged or does not fit is refused."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from consilia.config.reading import FixedWindows, Reading, Window
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.dicom.header import MAX_INFLATED_BYTES
from consilia.data.dicom.pixels import SYNTAXES
from consilia.data.square import MAX_PIXELS
from consilia.errors import ReaderError
from dicom_encodings import (
    JPEG_LS_EXAMPLE,
    JPEG_LS_IMAGE,
    NATIVE,
    encode_extended_jpeg,
    encode_jpeg,
    encode_lossless_jpeg,
    write_dicom,
)

WHOLE_RANGE = FixedWindows(windows=(Window(center=32768, width=65536),))
EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def read(path: Path, *, size: int = 16, channels: int = 1, **fields) -> np.ndarray:
    pixels = read_image(path, Reading(size=size, channels=channels, **fields)).pixels
    return pixels[:, :, 0] if channels == 1 else pixels


def deep(side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (side, side)).astype(np.uint16)


def shown(values: np.ndarray) -> np.ndarray:
    """What WHOLE_RANGE makes of 16 bits."""
    return np.rint(values / 65535 * 255).astype(np.uint8)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_decoder_for_every_supported_syntax_is_installed(syntax):
    assert get_decoder(syntax).is_available


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("sign", [False, True])
def test_uncompressed_pixels_are_those_written(tmp_path: Path, syntax, sign):
    values = deep()
    stored = (values.astype(np.int32) - 32768).astype(np.int16) if sign else values
    path = write_dicom(tmp_path / "a", stored, syntax=syntax, RescaleIntercept=32768 * sign, RescaleSlope=1)
    assert np.array_equal(read(path, window=WHOLE_RANGE), shown(values))


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
def test_uncompressed_colours_are_those_written_also_in_planes_and_odd_numbers(tmp_path: Path, syntax):
    colours = np.random.default_rng(1).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)
    whole = write_dicom(tmp_path / "a", colours, syntax=syntax, SamplesPerPixel=3)
    planes = write_dicom(tmp_path / "b", colours[1].transpose(2, 0, 1), syntax=syntax, BitsStored=8)
    changed = pydicom.dcmread(planes)
    changed.SamplesPerPixel, changed.PhotometricInterpretation, changed.PlanarConfiguration = 3, "RGB", 1
    del changed.NumberOfFrames
    changed.save_as(planes)
    for frame in range(3):
        found = read_image(whole, Reading(size=9, channels=3, frames="each"), frame=frame).pixels
        assert np.array_equal(found, colours[frame])
    assert np.array_equal(read(planes, size=9, channels=3), colours[1])


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("frame", [0, 1])
def test_compressed_pixels_are_those_written(tmp_path: Path, syntax, frame):
    values = np.stack([deep(64), deep(64)[::-1]])
    path = write_dicom(tmp_path / "a", values)
    image = pydicom.dcmread(path)
    image.compress(syntax)
    image.save_as(path)
    found = read_image(path, Reading(size=64, channels=1, window=WHOLE_RANGE, frames="each"), frame=frame)
    assert np.array_equal(found.pixels[:, :, 0], shown(values[frame]))


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1], ids=lambda syntax: syntax.keyword)
def test_lossless_jpeg_pixels_are_those_written(tmp_path: Path, syntax):
    values = deep()
    path = write_dicom(tmp_path / "a", values, syntax=syntax, streams=[encode_lossless_jpeg(values)])
    assert np.array_equal(read(path, window=WHOLE_RANGE), shown(values))


def test_a_jpeg_of_twelve_bits_gives_the_levels_of_its_blocks(tmp_path: Path):
    blocks = np.array([[0, 4095], [1000, 2500]], dtype=np.uint16)
    values = np.kron(blocks, np.ones((8, 8), dtype=np.uint16))
    path = write_dicom(
        tmp_path / "a", values, syntax=uid.JPEGExtended12Bit, streams=[encode_extended_jpeg(blocks)], BitsStored=12
    )
    window = FixedWindows(windows=(Window(center=2048, width=4096),))
    assert np.array_equal(read(path, window=window), np.rint(values / 4095 * 255).astype(np.uint8))


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLSNearLossless], ids=lambda syntax: syntax.keyword)
def test_the_worked_example_of_the_jpeg_ls_standard_is_decoded(tmp_path: Path, syntax):
    path = write_dicom(tmp_path / "a", JPEG_LS_IMAGE, syntax=syntax, streams=[JPEG_LS_EXAMPLE])
    assert np.array_equal(read(path, size=8)[::2, ::2].shape, (4, 4))
    enlarged = read(path, size=8).astype(int)
    assert abs(enlarged.mean() - JPEG_LS_IMAGE.mean()) < 3
    assert enlarged[7, 7] == 145
    assert enlarged[0, 0] == 0


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit], ids=lambda syntax: syntax.keyword)
def test_a_jpeg_of_eight_bits_is_near_what_was_written(tmp_path: Path, syntax):
    rows, columns = np.mgrid[:16, :16]
    grey = (rows * 8 + columns * 7).astype(np.uint8)
    path = write_dicom(tmp_path / "a", grey, syntax=syntax, streams=[encode_jpeg(grey)])
    assert np.abs(read(path).astype(int) - grey).max() <= 2


def test_colours_of_a_jpeg_are_converted_from_ycc(tmp_path: Path):
    colours = np.empty((16, 16, 3), dtype=np.uint8)
    colours[:] = (200, 40, 90)
    path = write_dicom(
        *(tmp_path / "a", colours),
        syntax=uid.JPEGBaseline8Bit,
        streams=[encode_jpeg(colours)],
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422",
    )
    assert np.abs(read(path, channels=3).astype(int) - colours).max() <= 2


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_expb.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_padded.dcm", "MR_small.dcm"),
        ("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),
    ],
)
def test_other_encoders_files_of_one_image_are_read_alike(name, same_as):
    found, wanted = (read(EXAMPLES / file, size=64, channels=3) for file in (name, same_as))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "name",
    [
        *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm"),
        *("SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm"),
        *("SC_rgb_jls_lossy_sample.dcm", "SC_ybr_full_422_uncompressed.dcm"),
    ],
)
def test_lossy_files_of_one_image_are_read_nearly_alike_whatever_their_colour_space(name):
    found, wanted = (read(EXAMPLES / file, size=50, channels=3).astype(int) for file in (name, "SC_rgb_rle.dcm"))
    assert np.abs(found - wanted).mean() < 8


# --- damage


def test_pixels_cut_short_are_refused_in_every_native_syntax(tmp_path: Path):
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        path = write_dicom(tmp_path / "a", deep(), syntax=syntax)
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(ReaderError, match=r"/a: the pixels are truncated.*512 bytes.*510"):
            read(path, window=WHOLE_RANGE)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    path = write_dicom(tmp_path / "a", deep(), streams=[encode_lossless_jpeg(deep())], syntax=uid.JPEGLosslessSV1)
    whole, pixels = path.read_bytes(), read(path, window=WHOLE_RANGE)
    outcomes = []
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            outcomes.append(read(path, window=WHOLE_RANGE))
        except ReaderError as error:
            outcomes.append(str(error))
    refusals = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert all(str(path) in refusal for refusal in refusals)
    assert all(np.array_equal(outcome, pixels) for outcome in outcomes if not isinstance(outcome, str))
    assert len(refusals) > 0.95 * len(outcomes)


def test_a_panic_of_the_rle_decoder_is_a_reader_error(tmp_path: Path):
    run = b"\x81\x00"  # 128 zeros; a segment of 16 x 16 takes two
    too_long = struct.pack("<16L", 2, 64, 70, *[0] * 13) + run * 3 + run * 2
    path = write_dicom(tmp_path / "a", np.zeros((16, 16), np.uint16), syntax=uid.RLELossless, streams=[too_long])
    with pytest.raises(ReaderError, match="/a: "):
        read(path)


def test_a_compressed_frame_of_another_size_than_the_header_says_is_refused(tmp_path: Path):
    wide = np.zeros((16, 32), dtype=np.uint8)
    path = write_dicom(tmp_path / "a", wide, syntax=uid.JPEGBaseline8Bit, streams=[encode_jpeg(wide.T.copy())])
    with pytest.raises(ReaderError, match=r"\(32, 16, 1\), but the DICOM header says \(16, 32, 1\)"):
        read(path)


def test_more_pixels_than_the_header_promises_are_refused(tmp_path: Path):
    path = write_dicom(tmp_path / "a", deep(), Rows=8)
    with pytest.raises(ReaderError, match="promises 256 bytes of pixels, but there are 512"):
        read(path, window=WHOLE_RANGE)


def test_one_odd_pixel_with_its_padding_byte_is_an_image(tmp_path: Path):
    assert (read(write_dicom(tmp_path / "a", np.full((1, 1), 9, np.uint8)), size=8) == 9).all()


def test_more_frames_than_the_file_has_bytes_for_are_refused_from_the_header_alone(tmp_path: Path):
    path = write_dicom(tmp_path / "a", deep(), NumberOfFrames=2_000_000)
    with pytest.raises(ReaderError, match=r"promises 2,000,000 frames, and 512 bytes are too few"):
        count_frames(path)
    stream = encode_lossless_jpeg(deep())
    path = write_dicom(tmp_path / "b", deep(), syntax=uid.JPEGLosslessSV1, streams=[stream], NumberOfFrames=2_000_000)
    with pytest.raises(ReaderError, match=r"promises 2,000,000 frames"):
        count_frames(path)


def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path: Path):
    path = write_dicom(tmp_path / "a", deep(), Rows=9000, Columns=9000)
    with pytest.raises(ReaderError, match=f"{MAX_PIXELS:,}"):
        read(path, window=WHOLE_RANGE)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert MAX_INFLATED_BYTES < 2**29
    monkeypatch.setattr("consilia.data.dicom.header.MAX_INFLATED_BYTES", 4096)
    path = write_dicom(tmp_path / "a", np.zeros((64, 64), np.uint16), syntax=uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(ReaderError, match="4,096 bytes at most"):
        read(path)


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"SamplesPerPixel": 4}, "4 samples"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"BitsStored": 17}, r"BitsStored must be 1 \.\.\. 16, but is 17"),
        ({"BitsAllocated": 24}, "24 bits allocated"),
        ({"HighBit": 11}, "HighBit must be BitsStored - 1 = 15, but is 11"),
        ({"NumberOfFrames": 0}, "NumberOfFrames must be at least 1"),
        ({"Rows": 0}, "no pixels"),
        ({"RescaleSlope": 0}, "RescaleSlope must not be 0"),
    ],
)
def test_impossible_headers_are_refused_by_what_is_wrong(tmp_path: Path, tags, says):
    with pytest.raises(ReaderError, match=says) as caught:
        read(write_dicom(tmp_path / "a", deep(), **tags), window=WHOLE_RANGE)
    assert str(tmp_path / "a") in str(caught.value)


def test_a_file_without_pixels_or_transfer_syntax_says_so(tmp_path: Path):
    with pytest.raises(ReaderError, match="holds no pixels"):
        read(EXAMPLES / "rtplan.dcm")
    with pytest.raises(ReaderError, match="without a transfer syntax"):
        read(EXAMPLES / "no_meta.dcm")
    (tmp_path / "note.dcm").write_text("no image at all")
    with pytest.raises(ReaderError, match=r"note\.dcm: not a DICOM file"):
        read(tmp_path / "note.dcm")
