"""Size and bit depth of image files, and whether their end is there; only TIFF, which has no end mark, is decoded."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dp.data.images import is_cut_jpeg, read_raw
from edge_dp.data.pfm import read_pfm
from edge_dp.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # colour type -> channels
_PNM = re.compile(rb"P([56])\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s")
_JPEG_NO_SIZE = {0xC4, 0xC8, 0xCC}  # of 0xC0..0xCF, those that are no start of a frame


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    width: int
    height: int
    bits: int  # per channel
    channels: int


def read_header(path: str | Path) -> Header:
    """Header of a PNG, JPEG, TIFF, PGM, PPM, PFM or npy file whose end has been seen too, so that a truncated one is found.

    Raises:
        InputError: the file is missing, of another kind, or does not end as it should.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected one of {', '.join(sorted(_READERS))}, found {path.suffix or 'no suffix'}.")
    try:
        header = reader(path)
    except OSError as error:
        raise InputError(f"{path}: expected an image file, found: {error.strerror}. Check the path.") from error
    if header is None:
        kind = path.suffix[1:].upper()
        raise InputError(
            f"{path}: expected a whole {kind}, found {path.stat().st_size} bytes that do not begin or end like one. The "
            "file is truncated or of another kind: copy it again."
        )
    return header


def has_header(path: str | Path) -> bool:
    """Whether ``read_header`` knows files with this suffix."""
    return Path(path).suffix.lower() in _READERS


def check_archive(path: str | Path) -> None:
    """Refuse an ``.npz``, which is a zip archive, that does not end as it should.

    Raises:
        InputError: it is missing, truncated or of another kind.
    """
    if not zipfile.is_zipfile(path):
        found = f"{Path(path).stat().st_size} bytes that do not end like one" if Path(path).is_file() else "no file"
        raise InputError(f"{path}: expected a whole archive of arrays, found {found}. Copy it again.")


def _png(path: Path) -> Header | None:
    with path.open("rb") as stream:
        head = stream.read(26)
        stream.seek(0, 2)
        stream.seek(max(stream.tell() - 64, 0))
        tail = stream.read()
    if len(head) < 26 or not head.startswith(_PNG) or _PNG_END not in tail:
        return None
    width, height, bits, colour = struct.unpack(">IIBB", head[16:])
    return Header(width, height, bits, _PNG_CHANNELS.get(colour, 1))


def _jpeg(path: Path) -> Header | None:
    data = path.read_bytes()
    if not data.startswith(b"\xff\xd8") or is_cut_jpeg(data):
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NO_SIZE:
            bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return Header(width, height, bits, channels)
        at += 2 + length
    return None


def _tiff(path: Path) -> Header:
    values = read_raw(path)
    return Header(values.shape[1], values.shape[0], 8 * values.itemsize, 1 if values.ndim == 2 else values.shape[2])


def _pnm(path: Path) -> Header | None:
    with path.open("rb") as stream:
        match = _PNM.match(stream.read(4096))
        size = stream.seek(0, 2)
    if match is None:
        return None
    width, height, highest = (int(match[group]) for group in (2, 3, 4))
    channels, bits = 1 if match[1] == b"5" else 3, 8 if highest < 256 else 16
    if size < match.end() + width * height * channels * bits // 8:
        return None
    return Header(width, height, bits, channels)


def _pfm(path: Path) -> Header:
    values = read_pfm(path)
    return Header(values.shape[1], values.shape[0], 32, 1 if values.ndim == 2 else 3)


def _npy(path: Path) -> Header | None:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        return None
    if values.ndim not in (2, 3):
        return None
    return Header(
        values.shape[1], values.shape[0], 8 * values.dtype.itemsize, 1 if values.ndim == 2 else values.shape[2]
    )


_READERS: dict[str, Callable[[Path], Header | None]] = {
    ".png": _png,
    ".jpg": _jpeg,
    ".jpeg": _jpeg,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".pgm": _pnm,
    ".ppm": _pnm,
    ".pfm": _pfm,
    ".npy": _npy,
}
