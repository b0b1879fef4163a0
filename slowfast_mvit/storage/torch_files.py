"""Files of tensors: written atomically, read without running what they may hold."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.storage.archives import check_archive, is_zip
from slowfast_mvit.storage.atomic import write_atomically
from slowfast_mvit.storage.remote import local_copy
from slowfast_mvit.storage.signatures import described_mistake

logger = logging.getLogger(__name__)

# How torch names what a file would have had to run or to build.
_REFUSED = re.compile(r"(?:GLOBAL|class|function) [\w.]+")


def save_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """Write what ``read_torch`` reads back, atomically."""
    import torch  # here, since most files are not of tensors

    return write_atomically(path, lambda file: torch.save(content, file))


def read_torch(path: str | Path) -> Any:
    """Read a ``.pyth``/``.pth``/``.pt`` file onto the CPU without running any code it may hold.

    The checksums inside the file are compared first: ``torch.load`` ignores them, and so loads
    wrong weights from a damaged file without a word.

    Raises:
        UserError: a remote file cannot be fetched.
        WeightsError: when the file is missing, damaged, not a PyTorch file, or holds objects that
            would need to run code to be loaded.
    """
    import torch

    path = local_copy(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}. Give the path of a checkpoint file (.pyth)")
    try:
        if is_zip(path):
            check_archive(path)
        else:
            logger.info("%s: the old format of PyTorch, without checksums", path)
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
        mistake = described_mistake(path)
        if mistake is not None:
            raise WeightsError(f"{path}: not a readable PyTorch file: {mistake}") from error
        # The text of an UnpicklingError is advice to load the file unsafely.
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise WeightsError(
            f"{path}: not a readable PyTorch file, or damaged{reason}. Copy or download it again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
