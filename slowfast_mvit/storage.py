"""Files that are wholly there or not at all: atomic writing, and safe reading of checkpoints."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from slowfast_mvit.errors import WeightsError

# How torch names what a file would have had to run or to build.
_REFUSED = re.compile(r"(?:GLOBAL|class|function) [\w.]+")


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
        path: where the file goes; its folder is made.
        write: called with a binary file to fill.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot and no "checkpoint": PySlowFast resumes from whatever holds that word.
    temporary = path.parent / f".tmp-{os.getpid()}-{path.name.replace('checkpoint', 'ckpt')}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def write_text_atomically(path: str | Path, text: str) -> Path:
    """``write_atomically`` for a text, in UTF-8."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def save_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """Write what ``read_torch`` reads back, atomically."""
    return write_atomically(path, lambda file: torch.save(content, file))


def read_torch(path: str | Path) -> Any:
    """Read a ``.pyth``/``.pth``/``.pt`` file onto the CPU without running any code it may hold.

    The checksums inside the file are compared first: ``torch.load`` ignores them, and so loads
    wrong weights from a damaged file without a word.

    Raises:
        WeightsError: when the file is missing, damaged, not a PyTorch file, or holds objects that
            would need to run code to be loaded.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}. Give the path of a checkpoint file (.pyth)")
    try:
        _check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # Damaged bytes make an unpickler raise whatever its last instruction happened to raise.
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"{path}: not loaded, since it holds more than tensors and plain values: "
                f"{refused.group()}. Files from a stranger can run code this way. If you trust "
                "it, load it where it was made and save only its state dict"
            ) from error
        # The text of an UnpicklingError is advice to load the file unsafely.
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise WeightsError(
            f"{path}: not a readable PyTorch file, or damaged{reason}. Copy or download it again"
        ) from error


def _check_zip(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of its part {damaged!r} is wrong")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
