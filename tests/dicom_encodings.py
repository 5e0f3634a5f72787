"""Writing DICOM files in every transfer syntax, with encoders small enough to be read as oracles."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

NATIVE = (
    *(uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    uid.DeflatedExplicitVRLittleEndian,
)

# The worked example of ITU-T T.87 (JPEG-LS), H.3: these bytes are that image.
JPEG_LS_EXAMPLE = bytes.fromhex(
    "ffd8fff7000b080004000401011100ffda0008010100000000c000006c80208e01c00000574000006ee6000001bc18000005d800009160ffd9"
)
JPEG_LS_IMAGE = np.array([[0, 0, 90, 74], [68, 50, 43, 205], [64, 145, 145, 145], [100, 145, 145, 145]], dtype=np.uint8)


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    streams: Sequence[bytes] = (),
    **tags: Any,
) -> Path:
    """Write (h, w), (n_frames, h, w) or, with SamplesPerPixel=3, (..., h, w, 3), or compressed `streams`."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = uid.SecondaryCaptureImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = "1.2.3.4"
    image.SamplesPerPixel = tags.pop("SamplesPerPixel", 1)
    image.PhotometricInterpretation = "MONOCHROME2" if image.SamplesPerPixel == 1 else "RGB"
    last = 3 if image.SamplesPerPixel == 3 else 2
    image.Rows, image.Columns = pixels.shape[-last : pixels.ndim - last + 2]
    if pixels.ndim > last:
        image.NumberOfFrames = len(pixels)
    if image.SamplesPerPixel == 3:
        image.PlanarConfiguration = 0
    image.BitsAllocated = 8 * pixels.dtype.itemsize
    image.BitsStored = tags.pop("BitsStored", image.BitsAllocated)
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(image, name, value)
    value = encapsulate(list(streams)) if streams else _native(pixels, syntax)
    image.add_new("PixelData", "OB" if streams or image.BitsAllocated == 8 else "OW", value)
    image["PixelData"].is_undefined_length = bool(streams)
    image.save_as(path, enforce_file_format=True)
    return path


def _native(pixels: np.ndarray, syntax: uid.UID) -> bytes:
    data = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    return data + bytes(len(data) % 2)


def encode_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """Encode 8 bits as baseline JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 100, "subsampling": 0, **options})
    return buffer.getvalue()


def encode_lossless_jpeg(pixels: np.ndarray) -> bytes:
    """Encode (h, w) uint16 by prediction from the left. Source: ITU-T T.81, H.1."""
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << 15
    differences = (values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)
    differences[differences == -(1 << 15)] = 1 << 15  # category 16 stands for this one alone
    bits = "".join(_coded(int(difference)) for difference in differences.ravel())
    return _jpeg(0xC3, 16, pixels.shape, bits, scan=b"\x01\x00\x00")


def encode_extended_jpeg(blocks: np.ndarray) -> bytes:
    """Encode (h, w) values of 12 bits, each shown as 8 x 8 pixels, by their DC coefficients alone."""
    levels = blocks.astype(np.int64).ravel() - 2048  # the quantizer of 8 makes the DC coefficient the mean
    bits = "".join(_coded(int(difference)) + "0" for difference in np.diff(levels, prepend=0))
    quantizer = b"\xff\xdb\x00\x43\x00" + bytes([8]) * 64
    ends = b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00"  # one code: end of block
    return _jpeg(
        0xC1, 12, (8 * blocks.shape[0], 8 * blocks.shape[1]), bits, tables=quantizer + ends, scan=b"\x00\x3f\x00"
    )


def _coded(difference: int) -> str:
    """Write a difference's category in 5 bits, then its value in as many bits as the category says."""
    category = abs(difference).bit_length()
    if category in (0, 16):
        return f"{category:05b}"
    return f"{category:05b}{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"


def _jpeg(marker: int, precision: int, shape: tuple[int, ...], bits: str, *, scan: bytes, tables: bytes = b"") -> bytes:
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, precision, *shape, 1, 1, 0x11, 0)
    codes = b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17]) + bytes(11) + bytes(range(17))
    return b"\xff\xd8" + tables + frame + codes + b"\xff\xda\x00\x08\x01\x01\x00" + scan + data + b"\xff\xd9"
