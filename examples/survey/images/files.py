"""Picture files: the first bytes hold the format's name, width and height."""

from __future__ import annotations

import struct
from pathlib import Path

from django.conf import settings

HEADER = struct.Struct(">4sHH")
MAGIC = b"TRAP"


class CorruptPictureError(Exception):
    pass


def write_picture(path: str, width: int, height: int) -> None:
    file = Path(settings.MEDIA_ROOT, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(HEADER.pack(MAGIC, width, height))


def read_size(path: str) -> tuple[int, int]:
    """Width and height in pixels. Raises CorruptPictureError."""
    data = Path(settings.MEDIA_ROOT, path).read_bytes()
    try:
        magic, width, height = HEADER.unpack_from(data)
    except struct.error as error:
        raise CorruptPictureError(f"{path} is cut off after {len(data)} bytes") from error
    if magic != MAGIC:
        raise CorruptPictureError(f"{path} is no picture of a camera trap")
    return width, height
