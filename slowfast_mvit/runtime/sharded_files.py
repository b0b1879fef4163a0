"""Sharded checkpoints as folders: what they are called, whether they are whole, which can go.

    OUTPUT_DIR/sharded/epoch_00003_step_00250/     3 epochs and 250 steps of the next are done
        __0_0.distcp, __1_0.distcp, ...            tensors, written by rank 0, 1, ...
        .metadata                                  which part of which tensor is where
        plain.pyth                                 everything that is no tensor
        manifest.json                              length and SHA-256 of all of the above

A folder gets its name when it is complete. Of those inside epochs the two newest are kept. No name
holds the word "checkpoint": PySlowFast would resume from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.runtime.checkpoint_files import Position
from slowfast_mvit.storage import write_text_atomically
from slowfast_mvit.storage.outputs import upload_changes

MANIFEST = "manifest.json"
PLAIN_VALUES = "plain.pyth"
NUM_KEPT = 2  # the newest, and one to fall back on if it is damaged

_NAME = re.compile(r"epoch_(\d+)_step_(\d+)")
_UNFINISHED = ".tmp-"
_REMEDY = "Delete the folder, to go on from the one before, or copy it again"


@dataclass(frozen=True)
class FileFacts:
    """What a file must look like when it is read again.

    Attributes:
        num_bytes: its length.
        sha256: in hexadecimal digits.
    """

    num_bytes: int
    sha256: str


def sharded_path(output_dir: str | Path, position: Position) -> Path:
    """The folder of the checkpoint written there."""
    name = f"epoch_{position.epoch:05d}_step_{position.step:05d}"
    return Path(output_dir) / "sharded" / name


def unfinished_path(folder: Path) -> Path:
    """Where a folder is filled before it gets its name."""
    return folder.with_name(f"{_UNFINISHED}{folder.name}")


def is_sharded(path: str | Path) -> bool:
    """Whether this is the folder of a sharded checkpoint, damaged or not."""
    return (Path(path) / MANIFEST).is_file()


def sharded_position(folder: str | Path) -> Position:
    """How far the run had come when it wrote this folder, by its name.

    Raises:
        WeightsError: it is called otherwise.
    """
    match = _NAME.fullmatch(Path(folder).name)
    if match is None:
        raise WeightsError(
            f"{folder}: a sharded checkpoint has a name like epoch_00003_step_00250. "
            "Give it back the name that the run gave it"
        )
    return Position(int(match[1]), int(match[2]))


def sharded_newest_first(output_dir: str | Path) -> list[Path]:
    """Every sharded checkpoint of a run, the one furthest on first."""
    folders = [
        folder
        for folder in (Path(output_dir) / "sharded").glob("epoch_*_step_*")
        if is_sharded(folder) and _NAME.fullmatch(folder.name)
    ]
    return sorted(folders, key=sharded_position, reverse=True)


def remove_unfinished_sharded(output_dir: str | Path) -> None:
    """Delete what a run left behind that was killed while it wrote or deleted a folder."""
    for folder in (Path(output_dir) / "sharded").glob("*epoch_*_step_*"):
        if folder.name.startswith(_UNFINISHED) or not is_sharded(folder):
            shutil.rmtree(folder)


def prune_sharded(output_dir: str | Path, newest: Position) -> None:
    """Of those inside epochs delete all but the two furthest on up to ``newest``.

    Those after an epoch are kept; those beyond belong to another run.
    """
    folders = _inside_epochs(output_dir)
    passed = [folder for folder in folders if sharded_position(folder) <= newest]
    for folder in passed[NUM_KEPT:]:
        remove_sharded(folder)


def remove_sharded_mid_epoch(output_dir: str | Path) -> None:
    """Delete those inside epochs, once the run is at its end."""
    for folder in _inside_epochs(output_dir):
        remove_sharded(folder)


def _inside_epochs(output_dir: str | Path) -> list[Path]:
    folders = sharded_newest_first(output_dir)
    return [folder for folder in folders if sharded_position(folder).step]


def remove_sharded(folder: Path) -> None:
    """Delete a folder; one that is deleted in part is no checkpoint any more."""
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder)


def file_facts(path: Path) -> FileFacts:
    """Read a file for its length and its hash."""
    digest = hashlib.sha256()
    num_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            num_bytes += len(chunk)
    return FileFacts(num_bytes, digest.hexdigest())


def write_manifest(folder: Path, files: Mapping[str, FileFacts], **values: Any) -> None:
    """Say what belongs to a folder, after everything else in it."""
    entries = {
        name: {"bytes": facts.num_bytes, "sha256": facts.sha256}
        for name, facts in sorted(files.items())
    }
    text = json.dumps({**values, "files": entries}, indent=1) + "\n"
    write_text_atomically(folder / MANIFEST, text)


def publish(unfinished: Path, folder: Path) -> None:
    """Give a complete folder its name; one of that name, from before a restart, makes way."""
    if is_sharded(folder):
        remove_sharded(folder)
    os.rename(unfinished, folder)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name
    finally:
        os.close(descriptor)
    upload_changes(folder / MANIFEST)


def read_manifest(folder: str | Path) -> dict[str, FileFacts]:
    """The files of a sharded checkpoint, by name.

    Raises:
        WeightsError: there is no manifest, or it is none.
    """
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        beside = [other.name for other in sharded_newest_first(Path(folder).parent.parent)]
        raise WeightsError(
            f"{folder}: no such folder. There are: {', '.join(beside) or 'no sharded checkpoints'}"
        )
    if not path.is_file():
        raise WeightsError(
            f"{folder}: no sharded checkpoint, it has no {MANIFEST}. "
            "Give a folder like OUTPUT_DIR/sharded/epoch_00003_step_00000"
        )
    try:
        entries = json.loads(path.read_bytes())["files"]
        files = {
            str(name): FileFacts(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: damaged, cannot be read ({error}). {_REMEDY}") from error
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise WeightsError(f"{path}: names a file outside of the folder: {outside[0]!r}")
    return files


def require_unchanged(folder: str | Path, files: Mapping[str, FileFacts]) -> None:
    """Read the files and compare them with what the manifest says.

    Raises:
        WeightsError: one is missing or damaged; names it.
    """
    for name, facts in files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise WeightsError(f"{path}: missing. {_REMEDY}")
        num_bytes = path.stat().st_size
        if num_bytes != facts.num_bytes:
            raise WeightsError(
                f"{path}: damaged, has {num_bytes:,} of {facts.num_bytes:,} bytes. {_REMEDY}"
            )
        if file_facts(path) != facts:
            raise WeightsError(f"{path}: damaged, its SHA-256 has changed. {_REMEDY}")
