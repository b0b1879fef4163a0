"""Files of tensors: written atomically, and read without running code that they may contain.

Other kinds of files, often saved under the name of weights, are identified by their first bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import mmap
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.storage.archives import check_archive, is_zip
from slowfast_mvit.storage.atomic import write_atomically
from slowfast_mvit.storage.remote import local_copy

logger = logging.getLogger(__name__)

MAX_PICKLE_BYTES = 2**24  # names, config and states; a checkpoint of the largest model has 2**20
# The code or class that a file would need, in torch's messages.
_REFUSED = re.compile(r"(?:GLOBAL|class|function) [\w.]+")
# Called by torch with any size; in the spelling of each version of pickle.
_ALLOCATORS = (b"cbuiltins\nbytearray\n", b"c__builtin__\nbytearray\n")


def save_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """Write a file for ``read_torch``, atomically."""
    import torch  # here, since most files contain no tensors

    return write_atomically(path, lambda file: torch.save(content, file))


def read_torch(path: str | Path) -> Any:
    """Read a ``.pyth``/``.pth``/``.pt`` file onto the CPU without running any code it may contain.

    The checksums inside the file are compared first: ``torch.load`` ignores them, and so silently
    loads wrong weights from a damaged file.

    Raises:
        UserError: a remote file cannot be fetched.
        WeightsError: when the file is missing, damaged, not a PyTorch file, or contains objects
            that would need to run code to be loaded.
    """
    import torch

    path = local_copy(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {problem}. Give the path of a checkpoint file (.pyth)")
    try:
        if is_zip(path):
            check_archive(path)
        else:
            logger.info("%s: the old format of PyTorch, without checksums", path)
        _require_small_objects(path)
        # timm and torchvision store their arguments: a plain record, which runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # Damaged bytes make an unpickler raise whatever its last instruction happened to raise.
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"{path}: not loaded, since it contains more than tensors and plain values: "
                f"{refused.group()}. Files from a stranger can run code this way. If you trust "
                "it, load it where it was made and save only its state dict"
            ) from error
        if (other := describe_other_file(path)) is not None:
            raise WeightsError(f"{path}: not a readable PyTorch file: {other}") from error
        # The text of an UnpicklingError is advice to load the file unsafely.
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise WeightsError(
            f"{path}: not a readable PyTorch file, or damaged{reason}. Copy or download it again"
        ) from error


def _require_small_objects(path: Path) -> None:
    """Refuse objects other than tensors that are large or that a few bytes make large.

    Raises:
        UnpicklingError: the file names an allocator; PyTorch writes one for no tensor.
        zipfile.BadZipFile: names and plain values have more than ``MAX_PICKLE_BYTES``.
    """
    with contextlib.ExitStack() as stack:
        if is_zip(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            entries = [e for e in archive.infolist() if e.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in entries) > MAX_PICKLE_BYTES:
                raise zipfile.BadZipFile(
                    f"names and values of more than {MAX_PICKLE_BYTES:,} bytes"
                )
            contents: list[Any] = [archive.read(entry) for entry in entries]
        else:
            file = stack.enter_context(open(path, "rb"))
            contents = [stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))]
        if any(content.find(name) >= 0 for name in _ALLOCATORS for content in contents):
            raise pickle.UnpicklingError("GLOBAL builtins.bytearray")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


# Other kinds of files

_HEAD_BYTES = 512  # the kind of a tar archive is named at 257
_AGAIN = "Copy or download it again"
_UNPACK = "Unpack it and give the file of weights inside"


def describe_other_file(path: Path) -> str | None:
    """Describe a file that is often saved under the name of weights, and the remedy.

    Returns:
        None where the kind is unknown: it may be a damaged file of weights.
    """
    head = _head(path)
    for matches, kind, remedy in _OTHER_FILES:
        if matches(head, path):
            return f"{kind}. {remedy}"
    return None


def is_safetensors(path: Path) -> bool:
    """Return whether a file of any name begins like safetensors: a length, then JSON."""
    head = _head(path)
    length = int.from_bytes(head[:8], "little")
    return head[8:10] == b'{"' and length <= path.stat().st_size


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def _begins(*signatures: bytes) -> Callable[[bytes, Path], bool]:
    return lambda head, _: head.startswith(signatures)


def _in_zip(path: Path, ending: str) -> bool | None:
    """Return whether a zip archive has a name with this ending; None if it is no zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(ending) for name in archive.namelist())
    # Damaged bytes make it raise what their decoding happens to raise.
    except Exception:
        return None


def _is_web_page(head: bytes, _: Path) -> bool:
    return re.match(rb"\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE) is not None


def _is_text(head: bytes, _: Path) -> bool:
    return bool(head) and all(byte >= 32 or byte in b"\t\r\n" for byte in head)


# The condition, given the first bytes and the path; the kind; the remedy.
_OTHER_FILES: tuple[tuple[Callable[[bytes, Path], object], str, str], ...] = (
    (lambda head, _: not head, "it is empty (0 bytes)", _AGAIN),
    (_is_web_page, "it is a web page, about the file or an error", "Download the file itself"),
    (
        _begins(b"version https://git-lfs"),
        "it is a Git LFS pointer",
        "Run git lfs pull in its clone",
    ),
    (
        lambda _, path: _in_zip(path, "/constants.pkl"),
        "it is a TorchScript program, not weights",
        "Load it with torch.jit.load where you trust it, and save its state_dict() with torch.save",
    ),
    (
        lambda head, path: head.startswith(b"PK") and not is_zip(path),
        "it is cut off: it begins as PyTorch's files do, and its end is missing",
        _AGAIN,
    ),
    (
        lambda _, path: _in_zip(path, "/data.pkl") is False,
        "it is a zip archive of other files",
        _UNPACK,
    ),
    (_begins(b"\x1f\x8b"), "it is a gzip archive (.gz, .tgz)", _UNPACK),
    (lambda head, _: head[257:262] == b"ustar", "it is a tar archive", _UNPACK),
    (_begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "it is an image", "Give the weights"),
    (lambda head, _: head[4:8] == b"ftyp", "it is a video", "Give the weights"),
    (_begins(b"\x89HDF"), "it is an HDF5 file (Keras, MATLAB)", "Weights of PyTorch are needed"),
    (_is_text, "it is a text", "Give the file of weights; a config goes to --cfg"),
)
