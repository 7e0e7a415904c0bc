"""Arrays in ``.npz`` files: read without unpickling, sizes checked before anything is unpacked; and safe names for them."""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from harness.errors import RequestError, first_line
from harness.files import regular

LARGEST = 2**30
"""Bytes that all arrays of a file may have, unpacked."""
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LONGEST_NAME = 120
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for itself


def read_arrays(path: Path, leave: str = "") -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file, by name.

    Args:
        path: the file.
        leave: names that begin so are not read.

    Raises:
        RequestError: where there is no such file, it is no archive of arrays, is damaged, or holds more than `LARGEST`
            bytes or pickled objects.
    """
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            members = [one for one in archive.infolist() if not (leave and one.filename.startswith(leave))]
            if sum(one.file_size for one in members) > LARGEST:
                raise RequestError(f"{path}: its arrays have more than {LARGEST // 2**20} MiB unpacked")
            found = {}
            for one in members:
                with archive.open(one) as file:
                    size = _claimed(file)
                if size > one.file_size:
                    raise ValueError(f"{one.filename} claims {size:,} bytes and has {one.file_size:,}")
                with archive.open(one) as file:
                    found[one.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
            return found
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:  # of zipfile, zlib, numpy and the file system
        said = first_line(error, 120)
        raise RequestError(f"{path}: cannot be read as .npz ({said})") from None


def _claimed(file: IO[bytes]) -> int:
    """Bytes of the array that a member's header tells of."""
    version = npy.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"an array of version {version[0]}.{version[1]}")
    shape, _, kind = _READERS[version](file)
    if kind.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape of {shape}")
    return math.prod(shape) * kind.itemsize


def file_name(ident: str) -> str:
    """Return a safe file name, without suffix, for an id.

    It holds no path separator, is no name of a Windows device and not too long; distinct ids get distinct names.

    >>> file_name("7-0"), file_name("../7") == file_name("--/7")
    ('7-0', False)
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in ident)[:_LONGEST_NAME]
    if plain and plain == ident and not plain.startswith(".") and not _DEVICES.fullmatch(plain):
        return plain
    return f"{plain.strip('.') or '_'}-{hashlib.blake2b(ident.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
