"""Reading torch.distributed.checkpoint's files without running what they may hold.

``torch.distributed.checkpoint.load`` unpickles ``.metadata`` and every item that is no tensor as
they are, and so runs code that somebody has put there. Here the metadata may name only what
describes tensors, and only tensors may be described.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from slowfast_mvit.errors import WeightsError

METADATA = ".metadata"

_DESCRIPTIONS = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_DESCRIPTIONS, "ChunkStorageMetadata"),
    (_DESCRIPTIONS, "Metadata"),
    (_DESCRIPTIONS, "MetadataIndex"),
    (_DESCRIPTIONS, "StorageMeta"),
    (_DESCRIPTIONS, "TensorProperties"),
    (_DESCRIPTIONS, "TensorStorageMetadata"),
    (_DESCRIPTIONS, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


class _Refused(Exception):
    """The file names something that does not describe tensors."""


class _DescriptionUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise _Refused(f"{module}.{name}")


class TensorReader(FileSystemReader):
    """Reads the tensors that ``read_metadata`` has found harmless."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata


def read_metadata(folder: Path, files: Collection[str]) -> Metadata:
    """What tensors a sharded checkpoint holds, and where.

    Args:
        folder: the checkpoint.
        files: names of its files; no tensor may lie elsewhere.

    Raises:
        WeightsError: the file is damaged, or holds more than descriptions of tensors.
    """
    path = folder / METADATA
    try:
        with open(path, "rb") as file:
            metadata = _DescriptionUnpickler(file).load()
        strange = _strangers(metadata, files)
    except _Refused as refused:
        strange = [str(refused)]
    # Damaged bytes make an unpickler raise whatever its last instruction happened to raise.
    except Exception as error:
        raise WeightsError(
            f"{path}: not readable, or damaged ({type(error).__name__}: {error}). "
            "Delete the folder, to go on from the one before, or copy it again"
        ) from error
    if strange:
        raise WeightsError(
            f"{path}: not loaded, since it holds more than descriptions of tensors: {strange[0]}. "
            "Files from a stranger can run code this way; load only what your own runs wrote"
        )
    return metadata  # type: ignore[no-any-return]


def _strangers(metadata: Metadata, files: Collection[str]) -> list[str]:
    """What is described but is no plain tensor in one of the files."""
    items = metadata.state_dict_metadata
    places = metadata.storage_data.items()
    return [
        *(name for name, item in items.items() if not isinstance(item, TensorStorageMetadata)),
        *(
            f"{index.fqn} in {place.relative_path!r}"
            for index, place in places
            if not isinstance(place, _StorageInfo)
            or place.relative_path not in files
            or place.transform_descriptors
        ),
    ]
