"""Zip archives of tensors and arrays, checked before anything of them is allocated."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

MAX_ENTRIES = 20_000  # the largest published model has 1,500 tensors


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip archive, damaged or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def check_archive(path: Path) -> None:
    """Compare the sizes and checksums of a file of ``torch.save`` or ``numpy.savez``.

    Both write entries as they are. A compressed entry is refused: a small file of them can expand
    to any size.

    Raises:
        zipfile.BadZipFile: the archive is damaged, or claims more than the file has.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise zipfile.BadZipFile(f"it has {len(entries):,} entries, more than {MAX_ENTRIES:,}")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise zipfile.BadZipFile(f"its entry {entry.filename!r} is compressed or encrypted")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its entries are larger than the file")
        if not any(entry.CRC for entry in entries):  # torch.serialization.set_crc32_options(False)
            logger.info("%s: has no checksums, so damage cannot be noticed", path)
        elif (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of its part {damaged!r} is wrong")


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays of a ``.npz`` file whose headers agree with the bytes behind them.

    Args:
        path: the file.
        names: of the arrays, all of which it must have.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, an array is missing, or contains Python objects.
    """
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            return {name: _read_array(archive, f"{name}.npy") for name in names}
    except (zipfile.BadZipFile, KeyError, EOFError, SyntaxError, TypeError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"{name}: is of the unknown version {version}")
        shape, _, dtype = readers[version](file)
        if math.prod(shape) * dtype.itemsize != archive.getinfo(name).file_size - file.tell():
            raise ValueError(f"{name}: its header says {shape} of {dtype}, unlike its bytes")
    with archive.open(name) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return array
