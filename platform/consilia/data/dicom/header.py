"""The header of a DICOM file: its elements ahead of the pixels, read without decoding any pixel.

Source: DICOM PS3.5 (encoding), PS3.10 (file format), PS3.3 C.7.6.3 (image pixel module).
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from consilia.data.quiet import quietly
from consilia.errors import ReaderError

# Deflated files do not say how large they become. 80 million pixels of 16 bits, and half as much again.
MAX_INFLATED_BYTES = 256 * 2**20
# For the index: what describes an image, and the identifiers that carry no name of a person.
INDEX_TAGS = (
    "Modality",
    "PatientOrientation",
    "ImageOrientationPatient",
    "Laterality",
    "ImageLaterality",
    "ViewPosition",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "PatientSex",
    "PatientAge",
    "PixelSpacing",
    "PhotometricInterpretation",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
)
SOURCE_TAGS = (*INDEX_TAGS, "PatientID", "InstanceNumber", "ImagePositionPatient", "NumberOfFrames")
_PIXEL_TAGS = (
    *("SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape", "PixelPresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_WANTED: list[int] = [int(Tag(name)) for name in (*SOURCE_TAGS, *_PIXEL_TAGS)]
_PIXEL_ELEMENTS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The elements ahead of the pixels, and where the pixels begin."""

    dataset: Dataset
    syntax: UID
    source: BinaryIO  # at the first byte of the pixel element's value
    keyword: str  # PixelData, FloatPixelData or DoubleFloatPixelData
    vr: str  # of the pixel element; empty under implicit VR
    length: int  # of the value, bytes; 0xFFFFFFFF: encapsulated
    name: str  # what an error calls the file

    def text(self, keyword: str) -> str:
        """Return an element as text, its values joined by a backslash; empty where it is absent or damaged."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # pydicom converts on access, and damaged bytes can make that raise nearly anything
            return ""
        parts = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
        return "\\".join("" if part is None else str(part).strip(" \0") for part in parts)

    def number(self, keyword: str, default: int | None = None) -> int:
        """Return an element as one whole number.

        Raises:
            ReaderError: It is absent and has no default, or is not a whole number.
        """
        try:
            value = self.dataset.get(keyword)
            if value is None or value == "":
                value = default
            if value is not None and int(value) == value:
                return int(value)
        except Exception as error:
            raise ReaderError(f"{self.name}: DICOM's {keyword} is damaged: {error}") from error
        found = "is missing" if value is None else f"is {value!r}"
        raise ReaderError(f"{self.name}: DICOM's {keyword} must be a whole number, but {found}.")


def starts_as_dicom(head: bytes, path: Path) -> bool:
    """Tell from its first 132 bytes, or else from its name, whether a file is to be read as DICOM."""
    return head[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def read_header(file: BinaryIO, name: str) -> Header:
    """Read up to the pixels; `file` is at its first byte, and stays open for `Header.source`.

    Raises:
        ReaderError: The file is not a DICOM file, is damaged, or holds no pixels.
    """
    try:
        with quietly():
            return _read(file, name)
    except ReaderError:
        raise
    except Exception as error:  # a damaged file can make a parser raise nearly anything
        raise ReaderError(f"{name}: the DICOM header cannot be read: {error}") from error


def count_header_frames(header: Header) -> int:
    """Return NumberOfFrames, 1 where it is absent.

    Raises:
        ReaderError: It is not a whole number, is below 1, or is more than the file has bytes for.
    """
    n_frames = header.number("NumberOfFrames", 1)
    if n_frames < 1:
        raise ReaderError(f"{header.name}: DICOM's NumberOfFrames must be at least 1, but is {n_frames}.")
    if n_frames > 1 and n_frames * _least_bytes(header) > (present := _count_bytes(header.source)):
        raise ReaderError(
            f"{header.name}: the pixels are truncated or the DICOM header is damaged: it promises {n_frames:,} frames, "
            f"and {present:,} bytes are too few for them."
        )
    return n_frames


def is_dicom(path: Path) -> bool:
    """Tell whether a file is to be read as DICOM: by its content, or else by the suffix .dcm or .dicom."""
    try:
        with path.open("rb") as file:
            return starts_as_dicom(file.read(132), path)
    except OSError:
        return starts_as_dicom(b"", path)


def read_tags(path: Path) -> Mapping[str, str]:
    """Return the tags of an image by DICOM keyword, as text; several values are joined by a backslash.

    They are those of `INDEX_TAGS`, TransferSyntax by its name, and PatientID, InstanceNumber,
    ImagePositionPatient and NumberOfFrames. Absent or empty ones are left out.

    Raises:
        ReaderError: The file is missing, damaged, not a DICOM file or one without pixels; names it.
    """
    try:
        with path.open("rb") as file, quietly():
            return collect_tags(read_header(file, str(path)), SOURCE_TAGS)
    except OSError as error:
        raise ReaderError(f"{path}: the file cannot be opened: {error.strerror or error}.") from error


def collect_tags(header: Header, keywords: tuple[str, ...] = INDEX_TAGS) -> Mapping[str, str]:
    """Return the elements of a header that are present and not empty, and its transfer syntax."""
    found = {keyword: header.text(keyword) for keyword in keywords}
    return {keyword: text for keyword, text in found.items() if text} | {"TransferSyntax": str(header.syntax.name)}


def _least_bytes(header: Header) -> int:
    """Return the fewest bytes that a frame can take: compressed, the 8 of its item's own header."""
    if header.syntax.is_encapsulated:
        return 8
    n_bits = header.number("Rows", 1) * header.number("Columns", 1) * header.number("BitsAllocated", 8)
    return n_bits // 8


def _count_bytes(source: BinaryIO) -> int:
    """Return how many bytes follow the present position, which stays as it is."""
    start = source.tell()
    n_bytes = source.seek(0, io.SEEK_END) - start
    source.seek(start)
    return n_bytes


def _read(file: BinaryIO, name: str) -> Header:
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if not syntax:
        raise ReaderError(
            f"{name}: not a DICOM file, or one without a transfer syntax (0002,0010): how its pixels are encoded is "
            "unknown. Export it again as a DICOM file (Part 10)."
        )
    if not syntax.is_transfer_syntax:
        raise ReaderError(f"{name}: {syntax} is not a transfer syntax of the DICOM standard; export it again with one.")
    if syntax == DeflatedExplicitVRLittleEndian:
        file = _inflate(file, name)
    dataset = read_dataset(
        file,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, vr, length: tag in _PIXEL_ELEMENTS,
        specific_tags=list(_WANTED),
    )
    order = "<" if syntax.is_little_endian else ">"
    start = file.read(8)
    group, element = struct.unpack(f"{order}HH", start[:4]) if len(start) == 8 else (0, 0)
    if (keyword := _PIXEL_ELEMENTS.get(group << 16 | element)) is None:
        raise ReaderError(f"{name}: this DICOM file holds no pixels, or ends ahead of them.")
    implicit = dataset.original_encoding[0]
    vr, length = "", start[4:]
    if not implicit:
        vr, length = start[4:6].decode("ascii"), file.read(4)
    return Header(
        dataset=dataset,
        syntax=syntax,
        source=file,
        keyword=keyword,
        vr=vr,
        length=struct.unpack(f"{order}L", length)[0],
        name=name,
    )


def _inflate(file: BinaryIO, name: str) -> BinaryIO:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise ReaderError(
            f"{name}: a deflated DICOM file may inflate to {MAX_INFLATED_BYTES:,} bytes at most; this one does not "
            "end there. Store it with another transfer syntax."
        )
    return io.BytesIO(content)
