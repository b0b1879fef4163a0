"""The kernels of ``csrc/``, compiled for this machine at first use.

    C compiler (cc, gcc or clang) -> a library in the user's cache -> ctypes

The file name of a library depends on source, compiler and type of processor, so several types of
machine can share a home directory. Without a compiler, or on a system other than Linux, the plain
forms run instead, with one log line.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("csrc")
LANES = 8  # head widths must be a multiple of this; the same in csrc/
LANES_OF_GELU = 16  # the width of a hidden layer is a multiple of this
MAX_WIDTH = 512  # of a head, and of the offsets of a query
MAX_PLANE = 4096  # keys of one frame
MAX_KERNEL = 16
MAX_TAPS = 256  # of a max pooling: the index of one is a byte
DTYPES = (torch.float32, torch.bfloat16)

_COMPILERS = ("cc", "gcc", "clang")
_OPTIONS = ("-O3", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
# The processor to compile for: a name that the compiler knows, for tests of older ones.
_PROCESSOR = "SLOWFAST_MVIT_MARCH"


class Pooling(ctypes.Structure):
    """``pooling`` of csrc/grids.h: sizes in tokens, strides in elements."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("batch", "heads", "width", "prefix")],
        *[(name, ctypes.c_int64 * 3) for name in ("in_thw", "out_thw", "kernel", "stride")],
        *[(name, ctypes.c_int64) for name in ("token_stride", "batch_stride")],
    ]


class Scoring(ctypes.Structure):
    """``scoring`` of csrc/softmax.c."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("rows", "first_row", "keys", "row_stride")],
        *[(name, ctypes.c_int64) for name in ("width", "query_stride", "prefix")],
        *[(name, ctypes.c_int64 * 3) for name in ("q_thw", "k_thw")],
    ]


def fits(head_dim: int) -> bool:
    """Return whether the kernels support heads of this width."""
    return head_dim % LANES == 0 and head_dim <= MAX_WIDTH


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_built() -> bool:
    """Return whether the kernels could be compiled on this machine."""
    return _library() is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def multiplies_bfloat16() -> bool:
    """Return whether the kernels have bfloat16 products, in instructions of this processor."""
    library = _library()
    return library is not None and bool(library.multiplies_bfloat16(ctypes.c_int64(1)))


def call(name: str, *arguments: Tensor | ctypes.Structure | float | None) -> None:
    """Call a function of csrc/; only where ``is_built``.

    Args:
        name: of the function.
        arguments: all but the last one, the number of threads. A tensor is passed as the address
            of its first element, None as NULL, a record by reference.
    """
    library = _library()
    assert library is not None
    getattr(library, name)(*map(_converted, arguments), _converted(torch.get_num_threads()))


def _converted(argument: Tensor | ctypes.Structure | float | None) -> Any:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return (ctypes.c_float if isinstance(argument, float) else ctypes.c_int64)(argument)


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_compiled()))
    except _Unavailable as reason:
        logger.info("CPU kernels: PyTorch's own operations are used instead: %s", reason)
    except OSError as error:
        logger.warning("CPU kernels: PyTorch's own operations are used instead: %s", error)
    return None


def is_bfloat16(tensor: Tensor) -> bool:
    """Return whether a tensor is bfloat16 and not float32; the kernels support no other dtype."""
    return DTYPES.index(tensor.dtype) == 1


class _Unavailable(Exception):
    """No library can be built on this machine."""


def _compiled() -> Path:
    """Return the path of the library, compiled now if it is not in the cache."""
    if sys.platform != "linux":
        raise _Unavailable(f"they are made for Linux, this is {sys.platform}")
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise _Unavailable(f"there is no C compiler ({', '.join(_COMPILERS)})")
    target = _cache_folder() / f"native-{_fingerprint(compiler)}.so"
    if target.exists():
        return target
    descriptor, unfinished = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(descriptor)
    try:
        sources = [str(path) for path in _sources() if path.suffix == ".c"]
        command = [compiler, *_options(), "-o", unfinished, *sources, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise OSError(f"{compiler} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        os.replace(unfinished, target)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return target


def _options() -> list[str]:
    return [*_OPTIONS, f"-march={os.environ.get(_PROCESSOR, 'native')}"]


def _cache_folder() -> Path:
    """A folder that no other user can write to."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "slowfast_mvit"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError) as error:  # no home, or one that cannot be written to
        logger.debug("CPU kernels: no cache of compiled ones: %s", error)
    return Path(_private_folder().name)


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of this process, removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="slowfast_mvit_")


def _sources() -> list[Path]:
    return sorted(FOLDER.glob("*.[ch]"))


def _fingerprint(compiler: str) -> str:
    """Hash of all that the library depends on: source, options, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    sources = [path.read_text() for path in _sources()]
    parts = [*sources, *_options(), version.stdout, platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The instructions of this processor, as reported by the operating system."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return ""
