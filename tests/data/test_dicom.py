"""DICOM: windows, MONOCHROME1, padding, palettes, frames, tags; and every real file as its list says."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from consilia.config.reading import FileWindow, FixedWindows, PercentileWindow, Reading, Window
from consilia.data.decode.reader import count_frames, read_image
from consilia.data.dicom.header import is_dicom, read_tags
from consilia.data.square import Picture
from consilia.errors import ReaderError
from dicom_encodings import NATIVE, write_dicom

LUNG, MEDIASTINUM, BONE = (Window(center=c, width=w) for c, w in ((-600, 1500), (40, 400), (300, 1500)))
EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def read(
    path: Path, window=None, *, size: int = 16, channels: int = 1, as_displayed: bool = False, **fields
) -> Picture:
    reading = Reading(size=size, channels=channels, window=window or FileWindow(), **fields)
    return read_image(path, reading, as_displayed=as_displayed)


def grey(path: Path, window=None, **fields) -> np.ndarray:
    return read(path, window, **fields).pixels[:, :, 0]


def hounsfield() -> np.ndarray:
    return np.linspace(-1024, 1500, 256).astype(np.int16).reshape(16, 16)


def linear(values: np.ndarray, window: Window) -> np.ndarray:
    """PS3.3, C.11.2.1.2.1, written as there."""
    center, width = window.center - 0.5, window.width - 1
    shown = ((values - center) / width + 0.5) * 255
    shown[values <= center - width / 2] = 0
    shown[values > center + width / 2] = 255
    return np.rint(shown)


def write_ct(path: Path, **tags) -> Path:
    return write_dicom(path, (hounsfield() + 1024).astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024, **tags)


# --- windows


def test_each_fixed_window_becomes_a_channel_in_hounsfield_units(tmp_path: Path):
    pixels = read(write_ct(tmp_path / "a"), FixedWindows(windows=(LUNG, MEDIASTINUM, BONE)), channels=3).pixels
    for channel, window in enumerate((LUNG, MEDIASTINUM, BONE)):
        assert np.array_equal(pixels[:, :, channel], linear(hounsfield().astype(float), window))


def test_two_windows_make_two_channels_and_one_is_repeated_for_three(tmp_path: Path):
    path = write_ct(tmp_path / "a")
    assert read(path, FixedWindows(windows=(LUNG, BONE)), channels=2).pixels.shape == (16, 16, 2)
    repeated = read(path, FixedWindows(windows=(BONE,)), channels=3).pixels
    assert all(np.array_equal(repeated[:, :, i], linear(hounsfield().astype(float), BONE)) for i in range(3))


def test_slope_and_intercept_may_be_broken_numbers(tmp_path: Path):
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16) * 200
    path = write_dicom(tmp_path / "a", stored, RescaleSlope="0.0625", RescaleIntercept="-1000.5")
    assert np.array_equal(grey(path, FixedWindows(windows=(LUNG,))), linear(stored * 0.0625 - 1000.5, LUNG))


def test_the_first_window_of_the_file_is_taken(tmp_path: Path):
    path = write_ct(tmp_path / "a", WindowCenter=[40, -600], WindowWidth=[400, 1500])
    assert np.array_equal(grey(path), linear(hounsfield().astype(float), MEDIASTINUM))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_files_window_function_is_that_of_the_standard(tmp_path: Path, function):
    path = write_ct(tmp_path / "a", WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    with_window = apply_voi_lut(hounsfield().astype(float), pydicom.dcmread(path))
    low, high = -1024, 65535 - 1024
    assert np.abs(grey(path) - (with_window - low) / (high - low) * 255).max() <= 0.5


def test_an_unknown_window_function_is_refused(tmp_path: Path):
    with pytest.raises(ReaderError, match=r"VOILUTFunction must be LINEAR.*not CUBIC"):
        grey(write_ct(tmp_path / "a", WindowCenter=40, WindowWidth=400, VOILUTFunction="CUBIC"))


def test_more_than_eight_bits_without_a_window_are_refused_with_the_remedies(tmp_path: Path):
    path = write_ct(tmp_path / "a")
    with pytest.raises(ReaderError, match=r"/a: .*16 bits.*window: \{kind: percentiles\}.*kind: fixed"):
        grey(path)
    with pytest.raises(ReaderError, match="16 bits"):
        read(path, FixedWindows(windows=(LUNG,)), as_displayed=True)


@pytest.mark.parametrize(("bits", "sign"), [(8, False), (8, True), (6, False), (6, True)])
def test_eight_bits_or_fewer_are_shown_over_their_full_range(tmp_path: Path, bits, sign):
    low = -(1 << (bits - 1)) if sign else 0
    stored = (np.arange(256).reshape(16, 16) % (1 << bits) + low).astype(np.int8 if sign else np.uint8)
    wanted = np.rint((stored.astype(float) - low) / ((1 << bits) - 1) * 255)
    assert np.array_equal(grey(write_dicom(tmp_path / "a", stored, BitsStored=bits)), wanted)


def lookup_table(first: int, bits: int, entries: list[int], vr: str) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [len(entries), first, bits])
    table.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, dtype="<u2").tobytes())
    return table


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_lut_of_the_file_is_looked_up_and_goes_before_a_window(tmp_path: Path, vr):
    table = lookup_table(-1, 12, [0, 1000, 2000, 4095], vr)
    stored = np.array([[-5, -1, 0, 1, 2, 9, 0, 0]] * 8, dtype=np.int16)
    tags = {"VOILUTSequence": Sequence([table]), "WindowCenter": 0, "WindowWidth": 2}
    wanted = np.rint(np.array([0, 0, 1000, 2000, 4095, 4095, 1000, 1000]) / 4095 * 255)
    assert np.array_equal(grey(write_dicom(tmp_path / "a", stored, **tags), size=8)[3], wanted)


def test_a_modality_lut_gives_the_values_that_windows_are_in(tmp_path: Path):
    table = lookup_table(10, 16, [100, 200, 300], "US")
    table.ModalityLUTType = "US"
    stored = np.array([[0, 10, 11, 12, 500, 10, 10, 10]] * 8, dtype=np.uint16)
    path = write_dicom(tmp_path / "a", stored, ModalityLUTSequence=Sequence([table]))
    values = np.array([100, 100, 200, 300, 300, 100, 100, 100], dtype=float)
    window = Window(center=200, width=201)
    assert np.array_equal(grey(path, FixedWindows(windows=(window,)), size=8)[3], linear(values, window))


def test_percentiles_are_those_of_the_modality_values(tmp_path: Path):
    rule = PercentileWindow(low=10, high=90)
    values = hounsfield().astype(float)
    start, stop = np.percentile(values, [10, 90])
    wanted = np.rint(np.clip((values - start) / (stop - start), 0, 1) * 255)
    assert np.array_equal(grey(write_ct(tmp_path / "a"), rule), wanted)
    negative = write_dicom(tmp_path / "b", (-hounsfield()), RescaleSlope=-1, RescaleIntercept=0)
    assert np.array_equal(grey(negative, rule), wanted)


def test_fixed_windows_are_refused_for_colour(tmp_path: Path):
    path = write_dicom(tmp_path / "a", np.zeros((8, 8, 3), np.uint8), SamplesPerPixel=3)
    with pytest.raises(ReaderError, match=r"grey DICOM images.*\(RGB\)"):
        read(path, FixedWindows(windows=(LUNG,)))
    assert read(path, FixedWindows(windows=(LUNG, BONE, BONE)), channels=3, as_displayed=True).pixels.shape[2] == 3


def test_one_grey_cannot_stand_for_several_windows(tmp_path: Path):
    path = write_dicom(tmp_path / "a", np.zeros((8, 8), np.uint8))
    with pytest.raises(ReaderError, match=r"3 windows.*one grey"):
        read(path, FixedWindows(windows=(LUNG, BONE, BONE)), channels=3, as_displayed=True)


# --- what is shown how


@pytest.mark.parametrize("window", [FileWindow(), FixedWindows(windows=(MEDIASTINUM,)), PercentileWindow()])
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path, window):
    tags = {"WindowCenter": 40, "WindowWidth": 400}
    plain = grey(write_ct(tmp_path / "a", **tags), window)
    negative = grey(write_ct(tmp_path / "b", PhotometricInterpretation="MONOCHROME1", **tags), window)
    assert np.array_equal(negative, 255 - plain)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [FixedWindows(windows=(BONE,)), PercentileWindow(low=0, high=100)])
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
def test_padding_is_black_and_no_part_of_the_percentiles(tmp_path: Path, photometric, window, syntax):
    stored = hounsfield()
    padded = stored.copy()
    padded[:4] = -2000
    padded[4, :8] = -1990
    path = write_dicom(
        *(tmp_path / "a", padded),
        syntax=syntax,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    found = grey(path, window)
    assert not found[padded < -1024].any()
    values = stored[padded >= -1024].astype(float)
    if isinstance(window, FixedWindows):
        wanted = linear(values, BONE)
    else:
        wanted = np.rint((values - values.min()) / (values.max() - values.min()) * 255)
    assert np.array_equal(found[padded >= -1024], 255 - wanted if photometric == "MONOCHROME1" else wanted)


def test_unused_bits_are_no_part_of_a_value(tmp_path: Path):
    stored = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 16) | 0xF000  # an overlay in the upper bits
    path = write_dicom(tmp_path / "a", stored, BitsStored=12)
    window = Window(center=2048, width=4096)
    assert np.array_equal(grey(path, FixedWindows(windows=(window,))), linear((stored & 0xFFF).astype(float), window))


def test_a_palette_gives_its_colours(tmp_path: Path):
    stored = (np.arange(64, dtype=np.uint8) % 8).reshape(8, 8)
    red, green, blue = (np.random.default_rng(i).integers(0, 65536, 4).astype("<u2") for i in range(3))
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in (("Red", red), ("Green", green), ("Blue", blue)):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 2, 16]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    found = read(write_dicom(tmp_path / "a", stored, **tags), size=8, channels=3).pixels
    entry = np.clip(stored.astype(int) - 2, 0, 3)
    for channel, entries in enumerate((red, green, blue)):
        assert np.array_equal(found[:, :, channel], np.rint(entries[entry] / 257))


def test_colour_becomes_grey_by_its_luminance(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = grey(write_dicom(tmp_path / "a", colours, SamplesPerPixel=3), size=8)
    assert np.array_equal(found, np.asarray(Image.fromarray(colours).convert("L")))


# --- frames


def test_the_rule_picks_the_frame(tmp_path: Path):
    stored = np.stack([np.full((8, 8), 50 * i, np.uint8) for i in range(5)])
    path = write_dicom(tmp_path / "a", stored)
    assert count_frames(path) == 5
    assert (grey(path, frames="first") == 0).all()
    assert (grey(path, frames="middle") == 100).all()
    for frame in range(5):
        found = read_image(path, Reading(size=8, channels=1, frames="each"), frame=frame).pixels
        assert (found == 50 * frame).all()
    with pytest.raises(ReaderError, match=r"/a: the file has 5 frames.*`frames: first`, `middle` or `each`"):
        grey(path)
    with pytest.raises(ReaderError, match="each of the file's 5 frames is an image"):
        grey(path, frames="each")
    for frame in (5, -1):
        with pytest.raises(ReaderError, match=f"frame {frame} must be one of the file's 5"):
            read_image(path, Reading(size=8, channels=1, frames="each"), frame=frame)


def test_each_frame_of_an_enhanced_image_has_its_own_rescale_and_window(tmp_path: Path):
    stored = np.stack([(hounsfield() + 1024).astype(np.uint16)] * 2)

    def group(center: float, intercept: float) -> Dataset:
        item, voi, transform = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 400
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, intercept, "HU"
        item.FrameVOILUTSequence = Sequence([voi])
        item.PixelValueTransformationSequence = Sequence([transform])
        return item

    frames = Sequence([group(40, -1024), group(140, -924)])
    path = write_dicom(tmp_path / "a", stored, PerFrameFunctionalGroupsSequence=frames)
    shared = write_dicom(tmp_path / "b", stored, SharedFunctionalGroupsSequence=Sequence([group(40, -1024)]))
    wanted = linear(hounsfield().astype(float), MEDIASTINUM)
    assert np.array_equal(grey(path, frames="first"), wanted)
    assert np.array_equal(grey(path, frames="middle"), wanted)  # both shifted alike
    assert np.array_equal(grey(shared, frames="middle"), wanted)
    window = FixedWindows(windows=(MEDIASTINUM,))
    assert np.array_equal(grey(path, window, frames="middle"), linear(hounsfield() + 100.0, MEDIASTINUM))


# --- header alone


def test_dicom_is_told_by_content_and_else_by_name(tmp_path: Path):
    path = write_dicom(tmp_path / "no-suffix", np.zeros((8, 8), np.uint8))
    assert is_dicom(path)
    assert is_dicom(tmp_path / "absent.dcm")
    assert is_dicom(tmp_path / "absent.DICOM")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert not is_dicom(tmp_path / "a.png")
    path.rename(tmp_path / "scan.png")
    assert read(tmp_path / "scan.png").kind == "dicom"


def test_tags_are_text_and_absent_ones_are_left_out(tmp_path: Path):
    tags = {"PatientID": " p1 ", "StudyInstanceUID": "1.2.3", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    path = write_dicom(tmp_path / "a", np.zeros((8, 9), np.uint8), InstanceNumber=7, Laterality="", **tags)
    assert read_tags(path) == {
        "PatientID": "p1",
        "StudyInstanceUID": "1.2.3",
        "SOPInstanceUID": "1.2.3.4",
        "InstanceNumber": "7",
        "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0",
        "PhotometricInterpretation": "MONOCHROME2",
        "TransferSyntax": "Explicit VR Little Endian",
    }
    found = read(path)
    assert (found.kind, found.format, found.mode) == ("dicom", "DICOM", "MONOCHROME2 8 bit")
    assert (found.width, found.height) == (9, 8)
    assert set(found.tags) == set(read_tags(path)) - {"PatientID", "InstanceNumber"}


@pytest.mark.parametrize("ask", [read_tags, lambda path: read(path).tags])
def test_tags_of_what_is_no_dicom_file_are_refused_by_name(tmp_path: Path, ask):
    (tmp_path / "note.txt").write_text("no image")
    for name in ("note.txt", "absent.dcm"):
        with pytest.raises(ReaderError, match=name):
            ask(tmp_path / name)


def test_damaged_tags_that_no_pixel_needs_are_kept_as_their_text(tmp_path: Path):
    path = write_dicom(tmp_path / "a", np.zeros((8, 8), np.uint8), PixelSpacing=[0.5, 0.5], PatientSex="F")
    path.write_bytes(path.read_bytes().replace(b"0.5\\0.5", b"x.5\\0.5"))
    tags = read(path).tags
    assert tags["PixelSpacing"] == "x.5\\0.5"
    assert tags["PatientSex"] == "F"


def test_odd_files_are_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn):
    odd = write_dicom(tmp_path / "a", np.zeros((8, 8), np.uint8), StudyInstanceUID="1.2.3")
    odd.write_bytes(odd.read_bytes().replace(b"1.2.3\x00", b"1.x..3"))
    with caplog.at_level(logging.DEBUG):
        read(odd)
        read(EXAMPLES / "MR_small_padded.dcm", PercentileWindow())
        with pytest.raises(ReaderError):
            read(EXAMPLES / "JPEG-lossy.dcm", PercentileWindow())
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- the real files


def _stored(path: Path) -> tuple[Dataset, np.ndarray]:
    image = pydicom.dcmread(path)
    return image, pixel_array(image, index=0)


def test_every_real_file_is_read_or_refused_as_its_list_says(real_data: Path):
    table = pd.read_csv(real_data / "dicom" / "index.csv")
    assert len(table) == 16
    for row in table.itertuples():
        path = real_data / "dicom" / row.file
        rule = PercentileWindow(low=0, high=100)
        if row.decode != "ok":
            with pytest.raises(ReaderError, match="truncated" if "truncated" in row.file else "transfer syntax"):
                read(path, rule, frames="first")
            continue
        n_frames = 1 if np.isnan(row.frames) else int(row.frames)
        assert count_frames(path) == n_frames
        found = read(path, rule, size=64, channels=3, frames="first")
        assert found.tags["TransferSyntax"] == row.transfer_syntax
        assert found.mode == f"{row.photometric} {int(row.bits_stored)} bit"
        assert f"{found.height}, {found.width}" in row.pixels


def test_every_real_grey_file_is_its_stored_range_under_a_window_that_spans_it(real_data: Path):
    table = pd.read_csv(real_data / "dicom" / "index.csv")
    checked = 0
    for row in table[table.photometric.isin(["MONOCHROME1", "MONOCHROME2"]) & (table.decode == "ok")].itertuples():
        image, stored = _stored(real_data / "dicom" / row.file)
        side = max(stored.shape)
        slope, intercept = (
            float(image.get(name, value)) for name, value in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        if row.file.startswith("eCT"):  # its rescale lies in the functional groups
            transform = image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
            slope, intercept = float(transform.RescaleSlope), float(transform.RescaleIntercept)
        values = stored * slope + intercept
        low, high = (float(end) * slope + intercept for end in row.pixels.split()[-1].split(".."))
        window = Window(center=(low + high + 1) / 2, width=high - low + 1)
        square = grey(real_data / "dicom" / row.file, FixedWindows(windows=(window,)), size=side, frames="first")
        top, left = (side - stored.shape[0]) // 2, (side - stored.shape[1]) // 2
        found = square[top : top + stored.shape[0], left : left + stored.shape[1]]
        wanted = np.rint((values - low) / (high - low) * 255)
        wanted = 255 - wanted if row.photometric == "MONOCHROME1" else wanted
        wanted[stored == image.get("PixelPaddingValue", 99_999)] = 0
        assert np.abs(found - wanted).max() <= 1, row.file  # a half may round either way
        checked += 1
    assert checked == 11


def test_the_real_radiograph_of_monochrome1_shows_lungs_dark(real_data: Path):
    image = grey(real_data / "dicom" / "RG1_J2KI.dcm", size=256).astype(float)
    lungs, spine = image[90:140, 85:105].mean(), image[90:140, 122:132].mean()
    assert lungs < spine


def test_real_colours_are_those_of_pydicom(real_data: Path):
    for name in ("examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_palette.dcm"):
        image, colours = _stored(real_data / "dicom" / name)
        if image.PhotometricInterpretation == "PALETTE COLOR":
            colours = (apply_color_lut(colours, image) >> 8).astype(np.uint8)
        height, width = colours.shape[:2]
        found = read(real_data / "dicom" / name, size=max(height, width), channels=3, frames="first").pixels
        top = (max(height, width) - height) // 2
        assert np.abs(found[top : top + height].astype(int) - colours[:height]).max() <= 1, name


def test_the_real_clip_has_thirty_frames_that_differ(real_data: Path):
    path = real_data / "dicom" / "examples_ybr_color.dcm"
    reading = Reading(size=64, channels=3, frames="each")
    frames = [read_image(path, reading, frame=frame).pixels for frame in range(count_frames(path))]
    assert len(frames) == 30
    assert np.array_equal(frames[15], read(path, size=64, channels=3, frames="middle").pixels)
    assert any(not np.array_equal(frames[0], frame) for frame in frames[1:])


def test_the_real_voi_lut_is_looked_up_as_pydicom_does(real_data: Path):
    image, stored = _stored(real_data / "dicom" / "vlut_04.dcm")
    bits = image.VOILUTSequence[0].LUTDescriptor[2]
    wanted = apply_voi_lut(stored, image) / (2**bits - 1) * 255
    assert np.abs(grey(real_data / "dicom" / "vlut_04.dcm", size=512) - wanted).max() <= 0.5


def test_reading_does_not_depend_on_what_wrote_the_syntax(real_data: Path):
    whole, packed = (
        grey(real_data / "dicom" / name, PercentileWindow(), size=64) for name in ("MR_small.dcm", "MR_small_RLE.dcm")
    )
    assert np.array_equal(whole, packed)


def test_a_private_or_unknown_transfer_syntax_is_refused(tmp_path: Path):
    path = write_dicom(tmp_path / "a", np.zeros((8, 8), np.uint8))
    content = path.read_bytes()
    known = uid.ExplicitVRLittleEndian.encode() + b"\0"
    for other in (b"1.2.840.10008.1.2.9\0", b"1.3.46.670589.33.1.1"):
        path.write_bytes(content.replace(known, other))
        with pytest.raises(ReaderError, match="/a: "):
            read(path)
