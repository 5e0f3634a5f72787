"""Checks the header of a compressed frame against the DICOM header before a native decoder sees the frame.

Source: ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000), markers; DICOM PS3.5 G.5 (RLE).
"""

import struct
from dataclasses import dataclass

from pydicom import uid

from consilia.errors import ReaderError

_EXTENDED = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman frames
_FRAME_MARKERS = {
    uid.JPEGBaseline8Bit: _EXTENDED,
    uid.JPEGExtended12Bit: _EXTENDED,
    uid.JPEGLossless: frozenset({0xC3}),
    uid.JPEGLosslessSV1: frozenset({0xC3}),
    uid.JPEGLSLossless: frozenset({0xF7}),
    uid.JPEGLSNearLossless: frozenset({0xF7}),
}
_ALL_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # these three are tables
_END = b"\xff\xd9"  # of a JPEG and of a JPEG 2000 codestream alike
_MAX_TILES = 65535  # JPEG 2000's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameShape:
    """What a DICOM header says of its frames."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """What a compressed frame says of itself."""

    shape: tuple[int, int, int]  # rows, columns, samples
    precision: int  # bits a sample
    is_ycc: bool = False  # Adobe's marker says YCbCr


def check_codestream(data: bytes, syntax: uid.UID, promised: FrameShape, name: str) -> Codestream | None:
    """Refuse a frame that is cut short, or whose size is not what the header promises.

    Returns:
        What the frame says of itself; None for RLE, which says nothing.

    Raises:
        ReaderError: The frame is damaged or does not fit its header; names the file.
    """
    try:
        if syntax == uid.RLELossless:
            _check_rle(data, promised)
            return None
        stream = _read_jpeg(data, _FRAME_MARKERS[syntax]) if syntax in _FRAME_MARKERS else _read_jpeg2000(data)
        if _END not in data[-4096:].rstrip(b"\0")[-16:]:
            raise ValueError("it ends before its end marker")
    except (ValueError, IndexError, struct.error) as error:
        raise ReaderError(f"{name}: the compressed frame is truncated or damaged: {error}") from error
    if stream.shape != (promised.rows, promised.columns, promised.samples):
        raise ReaderError(
            f"{name}: the compressed frame has (rows, columns, samples) {stream.shape}, but the DICOM header says "
            f"{(promised.rows, promised.columns, promised.samples)}."
        )
    if not 1 <= stream.precision <= promised.bits_allocated:
        raise ReaderError(
            f"{name}: the compressed frame has {stream.precision} bits a sample, but the DICOM header allocates "
            f"{promised.bits_allocated}."
        )
    return stream


def _read_jpeg(data: bytes, wanted: frozenset[int]) -> Codestream:
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG")
    position, is_ycc = 2, False
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        if data[position] != 0xFF:
            raise ValueError("a marker is missing")
        marker, length = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        if marker in _ALL_FRAME_MARKERS:
            break
        if marker == 0xEE and data[position + 4 : position + 9] == b"Adobe" and length >= 14:
            is_ycc = data[position + 15] == 1
        if length < 2 or marker == 0xDA:
            raise ValueError("it has no frame header")
        position += 2 + length
    if marker not in wanted:
        raise ValueError(f"its frame marker {marker:#x} is not one of the transfer syntax")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", data, position + 4)
    return Codestream(shape=(rows, columns, samples), precision=precision, is_ycc=is_ycc)


def _read_jpeg2000(data: bytes) -> Codestream:
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # a file header (JP2) may precede it, against the standard
    if start < 0:
        raise ValueError("it does not begin as a JPEG 2000 codestream")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(">8LH", data, start + 8)
    if min(tile_x, tile_y) < 1 or tile_x0 > x0 or tile_y0 > y0:
        raise ValueError("its tiles are impossible")
    n_tiles = -((tile_x0 - x1) // tile_x) * -((tile_y0 - y1) // tile_y)
    if not 1 <= n_tiles <= _MAX_TILES:
        raise ValueError(f"it has {n_tiles} tiles")
    components = [data[start + 42 + 3 * i : start + 45 + 3 * i] for i in range(min(samples, 4))]
    if any(component[1:] != b"\x01\x01" for component in components):
        raise ValueError("its components have unequal sizes")
    if len({component[0] for component in components}) > 1:
        raise ValueError("its components have unequal precision")
    return Codestream(shape=(y1 - y0, x1 - x0, samples), precision=(components[0][0] & 0x7F) + 1)


def _check_rle(data: bytes, promised: FrameShape) -> None:
    n_segments, *offsets = struct.unpack_from("<16L", data)
    expected = promised.samples * promised.bits_allocated // 8
    if n_segments != expected:
        raise ValueError(f"it has {n_segments} RLE segments, but the DICOM header asks for {expected}")
    offsets = offsets[:n_segments]
    if offsets[0] != 64 or any(b <= a for a, b in zip(offsets, [*offsets[1:], len(data)], strict=True)):
        raise ValueError("its RLE segments are out of order")
