"""Identify a file that is no weights file by its first bytes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from slowfast_mvit.storage.archives import is_zip

_SEEN = 512  # bytes; the name of a tar archive's kind stands at 257


class Signature(NamedTuple):
    """A kind of file that may be found in place of weights.

    Attributes:
        is_it: whether a file is one, given its first bytes and its path.
        what: in words.
        remedy: what to do.
    """

    is_it: Callable[[bytes, Path], object]
    what: str
    remedy: str


def described_mistake(path: Path) -> str | None:
    """Describe a file that is often saved under the name of weights, and what to do.

    Returns:
        None where nothing is recognised: it may be a damaged file of weights.
    """
    with open(path, "rb") as file:
        start = file.read(_SEEN)
    for mistake in _MISTAKES:
        if mistake.is_it(start, path):
            return f"{mistake.what}. {mistake.remedy}"
    return None


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do, with any name: a length, then JSON."""
    with open(path, "rb") as file:
        start = file.read(_SEEN)
    length = int.from_bytes(start[:8], "little")
    return start[8:10] == b'{"' and length <= path.stat().st_size


def _begins(*signatures: bytes) -> Callable[[bytes, Path], bool]:
    return lambda start, _: start.startswith(signatures)


def _names_in_zip(path: Path) -> list[str] | None:
    """The names in a zip archive, or None if it is none or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    # Damaged bytes make it raise what their decoding happens to raise.
    except Exception:
        return None


def _is_program(_: bytes, path: Path) -> bool:
    return any(name.endswith("/constants.pkl") for name in _names_in_zip(path) or ())


def _is_other_archive(_: bytes, path: Path) -> bool:
    names = _names_in_zip(path)
    return names is not None and not any(name.endswith("/data.pkl") for name in names)


def _is_web_page(start: bytes, _: Path) -> bool:
    return re.match(rb"\s*<(!doctype|html|head|\?xml)", start, re.IGNORECASE) is not None


def _is_text(start: bytes, _: Path) -> bool:
    return bool(start) and all(byte >= 32 or byte in b"\t\r\n" for byte in start)


_AGAIN = "Copy or download it again"
_UNPACK = "Unpack it and give the file of weights inside"

_MISTAKES = (
    Signature(lambda start, _: not start, "it is empty (0 bytes)", _AGAIN),
    Signature(
        _is_web_page,
        "it is a web page",
        "The address led to a page about the file, or to an error: download the file itself",
    ),
    Signature(
        _begins(b"version https://git-lfs"),
        "it is a pointer of Git LFS, not the file itself",
        "Run git lfs pull where it was cloned",
    ),
    Signature(
        _is_program,
        "it is a TorchScript program, not weights",
        "Load it with torch.jit.load where you trust it, and save its state_dict() with torch.save",
    ),
    Signature(
        lambda start, path: start.startswith(b"PK") and not is_zip(path),
        "it is cut off: it begins as PyTorch's files do, and its end is missing",
        _AGAIN,
    ),
    Signature(
        _is_other_archive,
        "it is a zip archive of other files",
        _UNPACK,
    ),
    Signature(_begins(b"\x1f\x8b"), "it is a gzip archive (.gz, .tgz)", _UNPACK),
    Signature(lambda start, _: start[257:262] == b"ustar", "it is a tar archive", _UNPACK),
    Signature(_begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "it is an image", "Give the weights"),
    Signature(lambda start, _: start[4:8] == b"ftyp", "it is a video", "Give the weights"),
    Signature(
        _begins(b"\x89HDF"),
        "it is an HDF5 file, as Keras and MATLAB write",
        "Weights of PyTorch are wanted: there is no MViT of those",
    ),
    Signature(_is_text, "it is a text", "Give the file of weights; a config goes to --cfg"),
)
