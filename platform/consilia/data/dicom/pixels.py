"""One frame of a DICOM file as stored values or colours; its header is checked before anything is decoded."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from consilia.data.dicom.codestream import FrameShape, check_codestream
from consilia.data.dicom.header import Header, count_header_frames
from consilia.data.square import check_size
from consilia.errors import ReaderError

GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_BITS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
_UNDEFINED = 0xFFFFFFFF

# What pydicom decodes with the plugins that we depend on.
SYNTAXES = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.DeflatedExplicitVRLittleEndian, uid.RLELossless),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000),
    *(uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelModule:
    """The image pixel module of a header, checked. Source: DICOM PS3.3, C.7.6.3."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    planar: int
    n_frames: int

    @property
    def frame_bytes(self) -> float:
        """Bytes of one frame that is not compressed; not whole for some of 1 bit."""
        n_bytes = self.rows * self.columns * self.samples * self.bits_allocated / 8
        return n_bytes * 2 / 3 if self.photometric == "YBR_FULL_422" else n_bytes


def read_module(header: Header) -> PixelModule:
    """Read and check the elements that decide how the pixels are decoded.

    Raises:
        ReaderError: An element is missing, impossible or not supported.
    """
    name, is_native = header.name, header.keyword == "PixelData"
    photometric = header.text("PhotometricInterpretation").upper()
    n_bits = header.number("BitsAllocated")
    module = PixelModule(
        rows=header.number("Rows"),
        columns=header.number("Columns"),
        samples=header.number("SamplesPerPixel", 1),
        photometric=photometric,
        bits_allocated=n_bits,
        bits_stored=header.number("BitsStored", n_bits) if is_native else n_bits,
        is_signed=header.number("PixelRepresentation", 0) == 1 if is_native else True,
        planar=header.number("PlanarConfiguration", 0),
        n_frames=count_header_frames(header),
    )
    check_size(module.columns, module.rows, name)
    if header.syntax not in SYNTAXES:
        raise ReaderError(f"{name}: the transfer syntax {header.syntax.name} cannot be decoded; export it as another.")
    _check_kind(module, name)
    _check_bits(header, module)
    return module


def decode_frame(header: Header, module: PixelModule, frame: int) -> npt.NDArray[Any]:
    """Decode one frame.

    Returns:
        Stored values (rows, columns) of a grey image; RGB (rows, columns, 3) uint8 of a colour one.

    Raises:
        ReaderError: The pixels are truncated, damaged or do not fit the header.
    """
    options: dict[str, Any] = {
        "rows": module.rows,
        "columns": module.columns,
        "samples_per_pixel": module.samples,
        "photometric_interpretation": module.photometric,
        "bits_allocated": module.bits_allocated,
        "bits_stored": module.bits_stored,
        "pixel_representation": int(module.is_signed),
        "planar_configuration": module.planar,
        "pixel_keyword": header.keyword,
        "pixel_vr": header.vr,
    }
    try:
        if header.syntax.is_encapsulated:
            values, found = _decode_compressed(header, module, frame, options)
        else:
            _check_length(header, module)
            options["number_of_frames"] = module.n_frames
            values, found = get_decoder(header.syntax).as_array(header.source, index=frame, **options)
    except ReaderError:
        raise
    except BaseException as error:  # a damaged frame can make a decoder raise nearly anything
        # The RLE decoder is written in Rust; its panic does not derive from Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = "; ".join(line.strip() for line in lines[1:] or lines)  # pydicom's first of several is an introduction
        raise ReaderError(f"{header.name}: the pixels cannot be decoded: {reason}") from error
    if module.photometric in GREY:
        return values
    if module.photometric == _PALETTE:
        return _apply_palette(values, header)
    if found.get("photometric_interpretation") != "RGB":
        raise ReaderError(f"{header.name}: {module.photometric} pixels cannot be converted to RGB.")
    return _to_eight_bits(values, (1 << module.bits_stored) - 1)


def _decode_compressed(
    header: Header, module: PixelModule, frame: int, options: dict[str, Any]
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    tables = tuple(header.dataset.get(f"ExtendedOffsetTable{part}") for part in ("", "Lengths"))
    data = get_frame(
        header.source,
        frame,
        number_of_frames=module.n_frames,
        extended_offsets=tables if all(tables) else None,
    )
    promised = FrameShape(
        rows=module.rows, columns=module.columns, samples=module.samples, bits_allocated=module.bits_allocated
    )
    stream = check_codestream(data, header.syntax, promised, header.name)
    if stream and stream.is_ycc and module.photometric == "RGB":
        options["photometric_interpretation"] = "YBR_FULL"  # the codestream is right, as with JFIF's marker
    options["number_of_frames"] = 1
    return get_decoder(header.syntax).as_array(encapsulate([data]), index=0, **options)


def _check_kind(module: PixelModule, name: str) -> None:
    wanted = {1: (*GREY, _PALETTE), 3: _COLOUR}.get(module.samples, ())
    if module.photometric not in wanted:
        raise ReaderError(
            f"{name}: pixels of {module.samples} samples and photometric interpretation "
            f"{module.photometric or '(none)'} cannot be shown; grey, palette, RGB and YBR_FULL, _422, _ICT, _RCT can."
        )
    if module.planar not in (0, 1):
        raise ReaderError(f"{name}: DICOM's PlanarConfiguration must be 0 or 1, but is {module.planar}.")


def _check_bits(header: Header, module: PixelModule) -> None:
    name, allocated, stored = header.name, module.bits_allocated, module.bits_stored
    if allocated not in _BITS[header.keyword]:
        raise ReaderError(f"{name}: {header.keyword} of {allocated} bits allocated cannot be decoded.")
    if not 1 <= stored <= allocated:
        raise ReaderError(f"{name}: DICOM's BitsStored must be 1 ... {allocated}, but is {stored}.")
    high_bit = header.number("HighBit", stored - 1)
    if header.keyword == "PixelData" and not header.syntax.is_encapsulated and high_bit != stored - 1:
        raise ReaderError(f"{name}: DICOM's HighBit must be BitsStored - 1 = {stored - 1}, but is {high_bit}.")
    if header.number("PixelRepresentation", 0) not in (0, 1):
        raise ReaderError(f"{name}: DICOM's PixelRepresentation must be 0 or 1.")
    if module.photometric not in GREY and (allocated not in (8, 16) or module.is_signed):
        raise ReaderError(f"{name}: colours must be unsigned and of 8 or 16 bits, but have {allocated}.")


def _check_length(header: Header, module: PixelModule) -> None:
    """Refuse pixels that are fewer than the header promises, or a whole frame more."""
    expected = ceil(module.frame_bytes * module.n_frames)
    start = header.source.tell()
    present = header.source.seek(0, 2) - start
    header.source.seek(start)
    found = min(present, header.length)
    if header.length == _UNDEFINED or found < expected:
        raise ReaderError(
            f"{header.name}: the pixels are truncated: the DICOM header promises {expected:,} bytes, "
            f"but there are {found:,}."
        )
    excess = header.length - expected - expected % 2  # an odd number of bytes is padded to an even one
    if excess > 0 and excess >= min(module.frame_bytes, expected / 2 if module.n_frames == 1 else expected):
        raise ReaderError(
            f"{header.name}: the DICOM header promises {expected:,} bytes of pixels, but there are {header.length:,}: "
            "its size, bits, frames or photometric interpretation must be wrong."
        )


def _to_eight_bits(values: npt.NDArray[Any], highest: int) -> npt.NDArray[np.uint8]:
    if highest == 255:
        return values.astype(np.uint8, copy=False)
    scaled = (values.astype(np.uint32) * 255 + highest // 2) // highest
    return np.minimum(scaled, 255).astype(np.uint8)


def _apply_palette(values: npt.NDArray[Any], header: Header) -> npt.NDArray[np.uint8]:
    """Look colours up; values outside the palette take its first or last one. Source: PS3.3, C.7.6.3.1.5."""
    try:
        n_entries, first, n_bits = (int(part) for part in header.dataset.RedPaletteColorLookupTableDescriptor)
        n_entries = n_entries or 1 << 16
        # Looking up every index in turn gives the palette itself.
        ramp = np.arange(first, first + n_entries, dtype=np.int64)
        palette = apply_color_lut(ramp, header.dataset)[:, :3]
        if palette.dtype == np.uint8 and n_entries > 256:
            raise ValueError("8-bit palettes may have 256 entries at most")
    except Exception as error:
        raise ReaderError(f"{header.name}: the palette is damaged or not supported: {error}") from error
    highest = 255 if palette.max() < 256 and n_bits != 16 else 65535
    return _to_eight_bits(palette, highest)[np.clip(values.astype(np.int64) - first, 0, n_entries - 1)]
